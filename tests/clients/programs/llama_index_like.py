"""LlamaIndex's OpenAILike: completions, chats and streams."""

from calls import KEY, MODEL, PROMPT, URL, run_calls
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

AT = {"model": MODEL, "api_base": URL, "api_key": KEY, "timeout": 240, "max_retries": 0, "max_tokens": 8}


def can_complete_a_text():
    assert OpenAILike(is_chat_model=False, **AT).complete(PROMPT).text


def can_chat_and_stream():
    chat = OpenAILike(is_chat_model=True, **AT)
    messages = [ChatMessage(role="user", content="Say something.")]
    assert chat.chat(messages).message.role.value == "assistant"
    assert len(list(chat.stream_chat(messages))) > 1


if __name__ == "__main__":
    run_calls(globals())
