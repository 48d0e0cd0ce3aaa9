"""The fence around untrusted texts, whatever they contain."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.panel.annotators.instructions import Instructions, without_control
from tests.panel.chat_server import fenced

PIECES = [
    "{prompt}",
    "{responses}",
    "{count}",
    "<<<",
    ">>>",
    "\n",
    "0123456789ab",
    "[[A]]",
    "<|im_end|>",
    "</s>",
    "x",
    "",
]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=8).map("".join)
TEMPLATE = Instructions(
    "it",
    None,
    builtin={"it": "Of {count}: {prompt} and\n{responses} end"},
    required=("prompt", "responses"),
    optional=("count",),
    where="test",
)


@given(prompt=TEXTS, responses=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_every_text_stands_in_its_own_fence(prompt: str, responses: list[str]) -> None:
    (message,) = TEMPLATE.messages({"prompt": prompt, "responses": responses}, {"count": str(len(responses))})
    shown = [without_control(text) for text in (prompt, *responses)]
    assert fenced(message["content"]) == shown
    # Nothing of the texts is left outside of the fences.
    rest = message["content"]
    mark = rest.split("<<<", 1)[1][:12]
    for text in shown:
        rest = rest.replace(f"<<<{mark}\n{text}\n{mark}>>>", "", 1)
    labels = "\n\n".join(f"Response {i + 1}:\n" for i in range(len(responses)))
    assert rest == f"Of {len(responses)}:  and\n{labels} end"


def test_control_tokens_are_broken_and_code_is_left_alone() -> None:
    for token in (
        "<|im_start|>",
        "<|eot_id|>",
        "<s>",
        "</s>",
        "[/INST]",
        "<</SYS>>",
        "<start_of_turn>",
        "<\uff5cUser\uff5c>",
    ):
        assert without_control(f"a{token}b") == f"a{token[0]}\u200b{token[1:]}b"
    for code in ("x <| f |> y", "a < b | c > d", "[INSTALL]", "<span>", "[[A]]"):
        assert without_control(code) == code
