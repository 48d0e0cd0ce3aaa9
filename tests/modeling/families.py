"""Small tokenizers with chat templates in the style of real model families, made on the spot."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "The sum is 7 .",
    "I am not sure . The reader may know .",
    "user assistant model system What is the sum ?",
] * 20

LLAMA3 = (
    "{{- bos_token }}{% for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a reader .<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) }}"
    "{{ '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + '[/INST]' }}{% else %}"
    "{{ ' ' + message['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
#: Qwen3: only the last turn keeps its thought. With enable_thinking=false the prompt ends with an empty thought.
THINKING = (
    "{%- set ns = namespace(last=-1) %}{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}{%- for message in messages %}"
    "{%- set content = message['content'] %}{%- set thought = '' %}"
    "{%- if message['role'] == 'assistant' and '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' and loop.index0 > ns.last %}{{- '<think>\n' + thought + '\n</think>\n\n' }}"
    "{%- endif %}{{- content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
TURNS = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A chat template, the tokenizer that it is used with, and the token that ends a turn."""

    template: str
    build: Callable[[], PreTrainedTokenizerFast]
    end: str

    def tokenizer(self) -> PreTrainedTokenizerFast:
        tokenizer = self.build()
        tokenizer.chat_template = self.template
        return tokenizer


def byte_level(special: list[str], **names: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as of GPT-2, Llama 3 and Qwen."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


def sentence_piece(special: list[str]) -> PreTrainedTokenizerFast:
    """A BPE that puts a blank before every text, as SentencePiece does for Llama 2 and Mistral."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens = ["<unk>", "<s>", "</s>", *special, *(f"<0x{byte:02X}>" for byte in range(256))]
    words = TEXTS + [word for line in TEXTS for word in line.split()] + ["|user|>", "|assistant|>"]
    bpe.train_from_iterator(words, trainers.BpeTrainer(vocab_size=640, special_tokens=tokens, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


_CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
_GEMMA = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
_PHI3 = ["<unk>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]


@cache
def families() -> dict[str, Family]:
    """By name. Half of them end turns with another token than the tokenizer's eos_token."""
    return {
        "Llama 3": Family(
            LLAMA3,
            lambda: byte_level(_LLAMA3, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"),
            "<|eot_id|>",
        ),
        "Llama 3, base eos": Family(
            LLAMA3,
            lambda: byte_level(_LLAMA3, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"),
            "<|eot_id|>",
        ),
        "ChatML": Family(
            CHATML, lambda: byte_level(_CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>"), "<|im_end|>"
        ),
        "ChatML, base eos": Family(
            CHATML, lambda: byte_level(_CHATML, eos_token="<|endoftext|>", pad_token="<|endoftext|>"), "<|im_end|>"
        ),
        "Gemma": Family(
            GEMMA,
            lambda: byte_level(_GEMMA, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"),
            "<end_of_turn>",
        ),
        "Mistral": Family(MISTRAL, lambda: sentence_piece(["[INST]", "[/INST]"]), "</s>"),
        "Phi-3": Family(
            PHI3,
            lambda: byte_level(_PHI3, unk_token="<unk>", eos_token="<|endoftext|>", pad_token="<|endoftext|>"),
            "<|end|>",
        ),
        "thinking": Family(
            THINKING,
            lambda: byte_level([*_CHATML, "<think>", "</think>"], eos_token="<|im_end|>", pad_token="<|endoftext|>"),
            "<|im_end|>",
        ),
        "dummy blank after a newline": Family(TURNS, lambda: sentence_piece([]), "</s>"),
    }
