"""One comparison of a batch, named by its content."""

import hashlib

from pydantic import BaseModel, ConfigDict

from storage.files import canonical_json
from tasks.panel.annotators.protocol import Messages


class BatchItem(BaseModel):
    """One comparison: a line of batch.jsonl. Which response is a depends on the two texts only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str  # 16 hex digits of the sha256 of the prompt and both responses
    prompt: Messages
    a: str
    b: str


def new_item(prompt: Messages, one: str, other: str) -> BatchItem:
    """The item of a prompt and two responses, which is the same in either order."""
    texts = sorted((one, other), key=lambda text: hashlib.sha256(text.encode()).digest())
    digest = hashlib.sha256(canonical_json([prompt, texts]).encode()).hexdigest()[:16]
    return BatchItem(id=digest, prompt=prompt, a=texts[0], b=texts[1])
