"""What a function, or PyTorch for it, openly refuses to do: no silent mistake, so no failure unless asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torchbp.testing.compare import Failure
from torchbp.testing.subject import NotApplicable, Refused, Subject

#: What PyTorch says where a function openly does not offer something, and what that is.
_REFUSALS = (
    ("marked with @once_differentiable", "differentiable once only, and says so"),
    ("must override the setup_context staticmethod", "no setup_context, which torch.func needs"),
    ("does not have vmap support|vmap, so it cannot be|override the vmap staticmethod", "no vmap"),
    ("that does not support it|implement the jvp function", "no forward mode"),
    ("Batching rule not implemented", "no batching rule for something it calls"),
    ("called random operation", "draws random numbers, which vmap allows with randomness= only"),
    ("updated in place, were not batched", "modifies a buffer, which vmap does not allow"),
    ("no autograd formula was registered", "no autograd formula"),
    ("derivative for .* is not implemented", "no derivative"),
)


def refusal(error: BaseException) -> str:
    """Return what a function openly does not offer, going by the message; empty if it is another error."""
    text = str(error)
    if type(error).__module__ == "torch._dynamo.exc" and type(error).__name__ == "Unsupported":
        return f"torch.compile refuses it: {text.strip().splitlines()[0]}"
    for pattern, reason in _REFUSALS:
        if re.search(pattern, text):
            return reason
    return ""


def run_parts(subject: Subject, parts: Sequence[tuple[str, Callable[[], None]]]) -> str:
    """Run the parts of a property; those that are refused are left out, unless all are or the subject is strict.

    Returns:
        Which parts were left out, and why.

    Raises:
        Refused: if every part is.
    """
    left_out: dict[str, str] = {}
    for name, part in parts:
        try:
            part()
        except (Failure, NotApplicable):
            raise
        except Exception as error:
            reason = refusal(error)
            if not reason or subject.strict:
                raise
            left_out[name] = reason
    if len(left_out) == len(parts):
        raise Refused(next(iter(left_out.values())))
    return f"without {', '.join(left_out)}: {', '.join(dict.fromkeys(left_out.values()))}" if left_out else ""
