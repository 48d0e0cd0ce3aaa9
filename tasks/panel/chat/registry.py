"""Opens chat models. httpx is imported only for an endpoint, and vLLM started only for a local model."""

from tasks.panel.annotators.protocol import Limits
from tasks.panel.chat import Chat
from tasks.panel.chat.settings import ChatSettings


def open_chat(name: str, settings: ChatSettings) -> Chat:
    """The chat model of annotator `name`. Raises UserError when the API key, the folder or vLLM is missing."""
    if settings.backend == "vllm":
        from tasks.panel.chat.vllm import VllmChat

        return VllmChat(name, settings)
    from tasks.panel.chat.endpoint import Endpoint

    return Endpoint(name, settings)


def chat_limits(settings: ChatSettings) -> Limits:
    return Limits(settings.concurrency, settings.faults, settings.pause, settings.probes)
