"""A prompt template as the Jinja chat template that Hugging Face's processors and pipelines apply."""

from __future__ import annotations

import json

from input_pipeline.conversation import Template

_WORDS = (
    "{%- macro words(content) -%}{%- if content is string -%}{{ content }}{%- else -%}"
    "{%- for item in content if item['type'] == 'text' -%}{{ item['text'] }}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)
_PLAIN = (
    "{%- for message in messages -%}{%- if message['role'] == 'assistant' -%}"
    "{{ words(message['content']) + '\\n' }}{%- elif message['content'] is not string -%}"
    "{%- for item in message['content'] if item['type'] == 'image' -%}{{ '<image>' }}{%- endfor -%}"
    "{%- else -%}{{ '<image>' * (message['content'].split('<image>') | length - 1) }}"
    "{%- endif -%}{%- endfor -%}"
)


def chat_template(template: Template, spaced: bool = False) -> str:
    """The Jinja chat template that renders as `conversation.render` does, without BOS (a tokenizer adds it).

    A message's content is a string, or a list of {"type": "image"} and {"type": "text", "text": ...}. As in the
    templates of llava-hf, images come first, each on a line of its own. Style `single` has the form of inference.

    Args: spaced: for a SentencePiece tokenizer that is not legacy. It puts its `▁` at the start of a text alone, the
    original (and `encoding.tokenize`) behind each image too: a space written there makes it.
    """
    image = template.image_text + (" " if spaced else "")
    if template.style == "plain":
        return _WORDS + _PLAIN.replace("<image>' }}", f"{image}' }}}}").replace("'<image>' *", f"'{image}' *")
    quote = json.dumps
    parts = template.parts
    system = f"{quote(parts.system[0])} + ns.system + {quote(parts.system[1])}"
    system = f"({system} if ns.system else '')"
    opening = quote(parts.human[0])
    first = f"{opening} + {system}" if parts.system_inside else f"{system} + {opening}"
    inner = "bos_token + " if template.inner_bos else ""
    close = f" + {quote(parts.answer[1])}" + (" + eos_token" if parts.eos else "")
    return _WORDS + (
        "{%- macro images(content) -%}{%- if content is not string -%}"
        f"{{%- for item in content if item['type'] == 'image' -%}}{{{{ {quote(image)} + '\\n' }}}}"
        "{%- endfor -%}{%- endif -%}{%- endmacro -%}"
        f"{{%- set ns = namespace(system={quote(template.system)}, first=true) -%}}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}{%- set ns.system = words(message['content']) -%}"
        "{%- elif message['role'] == 'user' -%}"
        f"{{%- if ns.first -%}}{{{{ {first} }}}}{{%- else -%}}{{{{ {inner}{opening} }}}}{{%- endif -%}}"
        "{%- set ns.first = false -%}"
        "{{ images(message['content']) + words(message['content']) }}"
        f"{{%- if add_generation_prompt or not loop.last -%}}{{{{ {quote(parts.human[1])} }}}}{{%- endif -%}}"
        "{%- elif message['role'] == 'assistant' -%}"
        f"{{{{ {quote(parts.answer[0])} + words(message['content']){close} + {quote(parts.answer[2])} }}}}"
        "{%- endif -%}{%- endfor -%}"
    )
