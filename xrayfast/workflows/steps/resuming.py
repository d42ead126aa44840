"""Resume a run: find its checkpoint, check images and code, or finish a run that was killed at its very end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xrayfast._version import __version__
from xrayfast.data.cache.image_cache import DecodedImages
from xrayfast.data.manifest import Manifest
from xrayfast.errors import ConfigError, RunError, plural, shorten
from xrayfast.errors.advice import quoted
from xrayfast.learning.training.checkpoint import Checkpoint, find_checkpoint
from xrayfast.own_code import require_code
from xrayfast.runs.names import CONFIG_FILE
from xrayfast.runs.run import Run
from xrayfast.workflows.steps.data.images import changed_images
from xrayfast.workflows.steps.results import write_cards


def complete_end(run: Run) -> str:
    """Finish a run that was killed at its very end, and return a sentence that says what was done."""
    done = [f"removed {path.relative_to(run.path)}" for path in run.leftovers()]
    if not (run.model_card_path.is_file() and run.claim_path.is_file()):
        write_cards(run)
        done.append(f"wrote {run.model_card_path.name} and {run.claim_path.name}")
    if not done:
        raise RunError(
            f"{run.path} is complete: there is nothing to resume. 'xrayfast interpret {run.path}' reports on it."
        )
    run.remove_leftovers()
    return f"{run.path} was complete except for its last step, which is now done: {shorten(done)}."


def require_same_images(run: Run, data: Manifest, images: DecodedImages, note: Callable[[str], None]) -> None:
    """Check that images have the same pixels as when the run began.

    If another version of xrayfast began the run, differences are only noted: it may have decoded images differently.
    """
    changed = changed_images(run, data, images)
    if not changed:
        return
    found = f"{plural(len(changed), 'image')} of {data.config.shown} changed since the run began: {shorten(changed)}"
    if run.info.xrayfast != __version__:
        note(f"{found}, or xrayfast {run.info.xrayfast or '0.1'} decoded them differently: results will differ.")
        return
    raise RunError(f"{run.path}: {found}; expected the same pixels. Put them back, or start a new run.")


def read_checkpoint(run: Run, note: Callable[[str], None]) -> Checkpoint | None:
    """Return the checkpoint to resume from; None if no epoch was finished and none was saved.

    `note` is called if it is not the last one, or if training starts again at epoch 1.

    Raises:
        RunError: epochs were finished, and no intact checkpoint is left.
    """
    checkpoint, problem = find_checkpoint(run.checkpoint, checksums=run.has_checksums)
    if checkpoint is None:
        if run.has_epochs and problem:
            raise RunError(f"{problem} There is no complete checkpoint before it. Start a new run.")
        if run.has_epochs:
            raise RunError(
                f"{run.path}: epochs were finished, but {run.checkpoint.name} is missing, without which training would "
                "start at epoch 1. Put it back, or start a new run: xrayfast fit --config "
                f"{quoted(run.path / CONFIG_FILE)}"
            )
        note(f"{problem} No epoch was finished: training starts at epoch 1.".lstrip())
    elif problem:
        note(
            f"{problem} Training resumes from {checkpoint.path.name}: {checkpoint.place} was lost and is trained again."
        )
    return checkpoint


def require_same_code(run: Run, given: Mapping[str, str]) -> None:
    """Raise a ConfigError if a run was not trained with the given code of the user's own, judging from its names."""
    require_code(run.config.own_code | run.info.own_code, given, str(run.path))
    refuse_other_code(run, given)


def refuse_other_code(run: Run, given: Mapping[str, str]) -> None:
    """Raise a ConfigError if code of the user's own has another name than a run's, or the run had none."""
    trained = run.config.own_code | run.info.own_code
    for name, text in given.items():
        if trained.get(name) != text:
            was, advice = (trained[name], "Pass that one") if name in trained else ("none of your own", "Leave it out")
            raise ConfigError(f"{run.path}: {name} is {text}, but when the run began, it was {was}. {advice}.")
