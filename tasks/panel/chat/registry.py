"""Settings to chat models. httpx and vLLM are imported, or started, only when one is opened."""

from tasks.panel.annotators.protocol import Limits
from tasks.panel.chat import Chat
from tasks.panel.chat.settings import ChatSettings


def open_chat(name: str, settings: ChatSettings) -> Chat:
    """The chat model of annotator `name`. Raises UserError for what is known to be wrong before it is connected."""
    if settings.backend == "vllm":
        from tasks.panel.chat.vllm import VllmChat

        return VllmChat(name, settings)
    from tasks.panel.chat.endpoint import Endpoint

    return Endpoint(name, settings)


def chat_limits(settings: ChatSettings) -> Limits:
    return Limits(settings.concurrency, settings.faults, settings.pause, settings.probes)
