"""Tests of programs that train are left to `make test-all`, but for a few."""

import pytest

# Of these files `make test` runs what is named alone.
TRAINING = {
    'test_cifar_command.py': {
        'test_a_run_says_what_it_found_and_how_it_went',
        'test_a_run_leaves_its_configuration_metrics_picture_and_checkpoints',
        'test_a_wrong_run_is_refused_and_nothing_is_overwritten',
        'test_a_wrong_command_line_is_refused',
        'test_the_command_line_is_typed',
        'test_what_the_example_knows_by_name_is_in_its_readme',
    },
    'test_cifar_layers.py': set(),
    'test_cifar_models.py': {
        'test_networks_that_differ_in_the_seed_share_a_compilation'
    },
    'test_cifar_training.py': {
        'test_every_epoch_has_its_own_order_and_each_image_once',
        'test_a_call_takes_a_divisor_of_the_epoch_on_accelerators_and_one_step_on_cpu',
    },
    'test_half_rate.py': {'test_the_committed_table_is_that_of_the_committed_lines'},
    'test_landscapes_page.py': {
        'test_the_committed_page_is_of_the_scripts_and_styles_beside_it',
        'test_the_committed_page_shows_the_committed_losses_and_is_small',
    },
    'test_lm_command.py': {
        'test_a_run_says_what_it_found_and_what_it_came_to',
        'test_a_run_leaves_its_configuration_metrics_picture_and_checkpoints',
        'test_the_command_line_is_typed_and_a_wrong_one_is_refused',
    },
    'test_lm_models.py': set(),
    'test_lm_training.py': {
        'test_the_cosine_rises_over_a_twentieth_and_falls_to_a_tenth',
        'test_drops_are_at_epochs_100_and_145_of_200',
    },
    'test_regret.py': {
        'test_the_committed_tables_are_those_of_the_committed_record',
    },
    'test_toy.py': set(),
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        kept = TRAINING.get(item.path.name)
        if kept is not None and item.originalname not in kept:
            item.add_marker(pytest.mark.slow)
