"""The page of experiments/landscapes, in a browser and beside the runs it shows."""

import base64
import hashlib
import io
import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from experiments.landscapes import packed, run
from experiments.landscapes.functions import FUNCTIONS
from experiments.landscapes.optimizers import OPTIMIZERS
from experiments.landscapes.page import render
from experiments.landscapes.search import RATES
from experiments.landscapes.search import run as walk

api = pytest.importorskip('playwright.sync_api', reason='playwright is missing')

DOCS = Path(__file__).parents[2] / 'docs'
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
STEPS, STARTS = 12, 4


DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>')


def data_of(page):
    """The description that a page holds."""
    return json.loads(DATA.search(page)[1])


def unpack(text, length):
    """What `packed.pack` packed, by the layout that its docstring tells."""
    low, high = np.frombuffer(zlib.decompress(base64.b64decode(text)), 'u1').reshape(
        2, -1
    )
    differences = (low + 256 * high.astype('<u2')).astype('<u2').view('<i2')
    return np.cumsum(differences.reshape(-1, length), axis=1, dtype='<i2')


def test_what_is_packed_is_what_is_unpacked_again():
    codes = np.array([[[0, 32767, -32768], [5, 4, -300]]])
    np.testing.assert_array_equal(unpack(packed.pack(codes), 3), codes[0])


def test_frames_are_steps_from_the_first_to_the_last():
    assert packed.frames(3, 41) == [0, 1, 2, 3]
    frames = packed.frames(300, 41)
    assert frames[0] == 0 and frames[-1] == 300 and len(frames) == 41
    assert (np.diff(frames) >= 1).all()


def test_packed_paths_keep_places_and_losses_and_say_where_a_run_diverged():
    function = FUNCTIONS['rosenbrock']
    positions = np.array([[-2.0, -1.0], [0.0, 1.0], [1e30, 1.0], [np.nan, 0.0]])
    losses = np.array([1.0, 1e-3, 1e99, np.nan])
    x, y, exponent = unpack(packed.pack_paths(function, positions, losses), 4)
    assert x.tolist() == [0, 2048, 6144, 2048]
    assert y[:3].tolist() == [0, 2048, 2048]
    assert exponent.tolist() == [0, -3000, 16000, packed.DIVERGED]


def test_the_committed_page_is_of_the_scripts_and_styles_beside_it():
    page = (DOCS / '_static/landscapes.html').read_text(encoding='utf-8')
    assert page == render(data_of(page))


def test_the_committed_page_shows_the_committed_losses_and_is_small():
    page = (DOCS / '_static/landscapes.html').read_text(encoding='utf-8')
    record = json.loads((DOCS / 'results/landscapes.json').read_text())
    assert len(page) < 3e6
    data = data_of(page)
    optimizers, frames = data['optimizers'], len(data['steps'])
    for title, of in record['functions'].items():
        paths = unpack(data['functions'][title]['paths'], frames)
        shape = len(optimizers), len(RATES), data['starts'], 3, frames
        finals = paths.reshape(shape)[..., 2, -1]
        for name, finals_of in zip(optimizers, finals, strict=True):
            shown = finals_of[RATES.index(of[name]['rate'])]
            for code, loss in zip(shown, of[name]['held_out'], strict=False):
                if loss is None:
                    assert code == packed.DIVERGED
                else:
                    least = packed.LEAST
                    exponent = np.clip(np.log10(loss or 1e-99), least, -least)
                    assert abs(code / packed.DECADE - exponent) < 2 / packed.DECADE


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A small page and its record, made by the command."""
    out = tmp_path_factory.mktemp('landscapes')
    run.main(
        f'--functions rosenbrock himmelblau --optimizers momentum adam-half diffgrad '
        f'--steps {STEPS} --starts {STARTS} --shown {STARTS} --out-dir {out}'.split()
    )
    return out


def test_the_command_writes_everything(made):
    names = {'.json', '.md', '.html', '.png', '-rates.png'}
    written = {f'landscapes{name}' for name in names}
    assert {path.name for path in made.iterdir()} == written | {'lock'}
    for picture in made.glob('*.png'):
        assert picture.read_bytes().startswith(b'\x89PNG')


def test_the_page_refers_to_nothing_and_allows_its_own_script_alone(made):
    page = DATA.sub('', (made / 'landscapes.html').read_text(encoding='utf-8'))
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|\bfetch\(|//\w', page)
    (script,) = re.findall(r'<script type="module">(.*?)</script>', page, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert f"script-src 'sha256-{digest}'" in page


@pytest.fixture(scope='module')
def browser():
    with api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, BROWSERS)), None)
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip('there is no Chromium or Chrome')
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, made):
    """The page, opened; whatever it complains of or asks for fails the test."""
    address = (made / 'landscapes.html').as_uri()
    page = browser.new_page(viewport={'width': 1280, 'height': 900})
    page.set_default_timeout(10_000)
    heard = []
    page.on('console', lambda message: heard.append(message.text))
    page.on('pageerror', lambda error: heard.append(str(error)))
    page.on('request', lambda request: heard.append(request.url))
    page.goto(address)
    api.expect(page.locator('.final').first).not_to_be_empty()
    yield page
    page.close()
    assert heard == [address]


def assert_shows(text, loss):
    """What the page says is `loss`, to a unit of its third digit."""
    assert re.fullmatch(r'\d\.\d\de[+-]\d+', text), text
    assert float(text) == pytest.approx(loss, rel=0.012)


def choose(page, function, optimizer):
    page.select_option('#function', function)
    page.select_option('.optimizer >> nth=0', optimizer)
    label = re.compile(f'{optimizer} at .* on {FUNCTIONS[function].title} ')
    landscape = page.locator('.landscape').first
    api.expect(landscape).to_have_attribute('aria-label', label)


def set_range(page, selector, value):
    page.locator(selector).first.fill(str(value))


def place_of(page, function, start):
    """Where a start is in the window."""
    data = data_of(page.content())
    x, y = data['functions'][function]['starts'][start]
    box = page.locator('.landscape').first.bounding_box()
    return box['x'] + x * box['width'], box['y'] + (1 - y) * box['height']


@pytest.mark.parametrize('function', ['rosenbrock', 'himmelblau'])
@pytest.mark.parametrize('optimizer', ['adam-half', 'diffgrad'])
def test_the_page_shows_the_records_losses_at_the_tuned_rate(
    page, made, function, optimizer
):
    record = json.loads((made / 'landscapes.json').read_text())
    outcome = record['functions'][function][optimizer]
    choose(page, function, optimizer)
    rate = f'{outcome["rate"]:g}' + (' / 2' if optimizer == 'adam-half' else '')
    assert page.locator('.shown-rate').first.text_content() == rate
    assert_shows(page.text_content('.final'), outcome['held_out'][0])


def test_rate_start_and_step_are_chosen_by_hand(page):
    name, rate, start, step = 'himmelblau', RATES.index(0.0215), 2, 5
    losses = walk(FUNCTIONS[name], OPTIMIZERS['diffgrad'], STARTS, STARTS, STEPS).losses
    choose(page, name, 'diffgrad')
    set_range(page, '.rate', rate)
    assert_shows(page.text_content('.final'), losses[rate, 0, -1])

    page.locator('.landscape').first.scroll_into_view_if_needed()
    page.mouse.move(*place_of(page, name, 0))
    page.mouse.down()
    x, y = place_of(page, name, start)
    page.mouse.move(x + 5, y - 4, steps=3)
    assert page.locator('.landscape.dragging').count() == 1
    page.mouse.up()
    assert page.locator('.landscape.dragging').count() == 0
    assert_shows(page.text_content('.final'), losses[rate, start, -1])

    set_range(page, '#time', step)
    assert page.text_content('#step') == f'step {step} of {STEPS}'
    assert_shows(page.text_content('.now'), losses[rate, start, step])
    page.click('.tuned >> nth=0')
    assert_shows(page.text_content('.final'), losses[RATES.index(0.1), start, -1])
    assert page.is_disabled('.tuned >> nth=0')


def test_play_goes_from_the_first_step_to_the_last_and_pauses_between(page):
    page.click('#play')
    assert page.text_content('#play') == 'Pause'
    api.expect(page.locator('#step')).to_have_text(re.compile('step [2-9] of'))
    page.click('#play')
    paused = page.text_content('#step')
    assert page.text_content('#play') == 'Play' and f'step {STEPS}' not in paused
    page.wait_for_timeout(250)
    assert page.text_content('#step') == paused
    page.click('#play')
    api.expect(page.locator('#step')).to_have_text(f'step {STEPS} of {STEPS}')
    assert page.text_content('#play') == 'Play'


def test_a_run_that_diverged_says_so(page):
    choose(page, 'rosenbrock', 'momentum')
    set_range(page, '.rate', len(RATES) - 1)
    assert page.text_content('.final') == 'diverged'


def test_the_keyboard_chooses_starts_and_every_control_can_be_reached(page):
    choose(page, 'himmelblau', 'diffgrad')
    starts = data_of(page.content())['functions']['himmelblau']['starts']
    page.locator('.landscape').first.focus()
    reached = {0}
    for key in ('ArrowRight', 'ArrowUp', 'ArrowLeft', 'ArrowDown') * 2:
        page.keyboard.press(key)
        label = page.locator('.landscape').first.get_attribute('aria-label')
        reached.add(int(re.search(r'start (\d+) of', label)[1]) - 1)
    assert reached == set(range(len(starts)))
    page.locator('body').click(position={'x': 2, 'y': 2})
    focused = set()
    for _ in range(16):
        page.keyboard.press('Tab')
        focused.add(page.evaluate('document.activeElement.outerHTML.slice(0, 60)'))
    for control in ('id="function"', 'id="add"', 'id="play"', 'id="time"', 'summary'):
        assert any(control in html for html in focused), control
    for control in ('optimizer', 'landscape', 'class="rate"'):
        assert any(control in html for html in focused), control


def test_optimizers_are_added_and_removed(page):
    count = page.locator('article').count()
    page.click('#add')
    assert page.locator('article').count() == count + 1
    api.expect(page.locator('#legend span')).to_have_count(count + 1)
    page.click('.remove >> nth=0')
    assert page.locator('article').count() == count


def test_nothing_is_wider_than_a_phone(page):
    page.set_viewport_size({'width': 360, 'height': 700})
    width = page.evaluate('document.documentElement.scrollWidth')
    assert width <= 360
    box = page.locator('.landscape').first.bounding_box()
    assert 250 < box['width'] < 360 and box['height'] == box['width']


def brightness(page):
    """Of the first landscape, from 0 to 1."""
    picture = page.locator('.landscape').first.screenshot()
    return imread(io.BytesIO(picture))[..., :3].mean()


def test_the_dark_scheme_has_dark_pictures(page):
    page.emulate_media(color_scheme='light')
    light = brightness(page)
    page.emulate_media(color_scheme='dark')
    assert brightness(page) < 0.4 < 0.6 < light
