"""What the page says, in Chinese and in English."""

from __future__ import annotations

from typing import Literal

Language = Literal["zh", "en"]

LABELS: dict[Language, dict[str, str]] = {
    "zh": {
        "conversations": "对话",
        "new": "新话题",
        "send": "发送",
        "stop": "停止",
        "again": "重新回答",
        "question": "问题",
        "question_hint": "输入问题，Enter 发送，Shift+Enter 换行",
        "models": "模型",
        "models_info": "选两个，答案左右对照",
        "settings": "设置",
        "system": "系统提示词",
        "system_hint": "例如：你是一位通晓古典诗词的中文助手。",
        "temperature": "温度",
        "temperature_info": "0 每次都取最可能的词；越高越随意",
        "top_p": "Top-p",
        "top_p_info": "只在累计概率达到此值的词中选取",
        "top_k": "Top-k",
        "top_k_info": "只在最可能的这么多个词中选取；0 表示不限",
        "repetition_penalty": "重复惩罚",
        "repetition_penalty_info": "越高越少重复；1 表示关闭",
        "max_new_tokens": "最长回答（词元）",
        "max_new_tokens_info": "到此为止，即使没有说完",
        "history_turns": "保留的历史轮数",
        "history_turns_info": "随问题一起发送的前几轮对话",
        "reset": "恢复默认",
        "chatbot.copy_message": "复制",
        "chatbot.copied_message": "已复制",
    },
    "en": {
        "conversations": "Conversations",
        "new": "New topic",
        "send": "Send",
        "stop": "Stop",
        "again": "Answer again",
        "question": "Question",
        "question_hint": "Ask something. Enter sends, Shift+Enter starts a new line",
        "models": "Models",
        "models_info": "Choose two to see their answers side by side",
        "settings": "Settings",
        "system": "System prompt",
        "system_hint": "For example: You are an assistant who knows classical Chinese poetry.",
        "temperature": "Temperature",
        "temperature_info": "0 takes the likeliest word each time; higher is freer",
        "top_p": "Top-p",
        "top_p_info": "Choose among the likeliest words that together have this probability",
        "top_k": "Top-k",
        "top_k_info": "Choose among this many of the likeliest words; 0 is all",
        "repetition_penalty": "Repetition penalty",
        "repetition_penalty_info": "Higher repeats less; 1 is off",
        "max_new_tokens": "Longest answer (tokens)",
        "max_new_tokens_info": "It ends here, finished or not",
        "history_turns": "Turns of history",
        "history_turns_info": "Earlier turns that are sent along with a question",
        "reset": "Back to defaults",
    },
}
"""Of components, by key; the browser picks the language. Keys with a dot are Gradio's own, where its Chinese has a gap."""

TRANSLATIONS = {"en": LABELS["en"], "zh": LABELS["zh"], "zh-CN": LABELS["zh"], "zh-TW": LABELS["zh"]}
"""As Gradio looks them up: it has words of its own for two kinds of Chinese."""

PROBLEMS: dict[Language, dict[str, str]] = {
    "zh": {
        "unreachable": "连不上模型服务：它可能正在重启。稍后点“重新回答”。",
        "broken": "回答中断：与模型服务的连接断开了。点“重新回答”再试。",
        "loading": "模型还在加载，请稍候再点“重新回答”。",
        "draining": "模型服务正在更新，请稍候再点“重新回答”。",
        "full": "现在提问的人太多，排队已满。过一会儿点“重新回答”。",
        "slow": "回答用时超过了上限。请调小“最长回答”，或稍后再试。",
        "long": "内容太长，模型读不下。请缩短问题，或开始新话题。",
        "refused": "模型服务拒绝了页面的密钥：请管理员检查 API key。",
        "missing": "模型服务里已没有这个模型：请刷新页面。",
        "rejected": "模型服务不接受这个请求。",
        "error": "模型服务出错了。点“重新回答”再试。",
    },
    "en": {
        "unreachable": "The model cannot be reached: it may be restarting. Press “Answer again” in a moment.",
        "broken": "The answer broke off: the connection to the model was lost. Press “Answer again”.",
        "loading": "The model is still being loaded. Press “Answer again” in a moment.",
        "draining": "The model is being updated. Press “Answer again” in a moment.",
        "full": "Too many people are asking right now, and the queue is full. Press “Answer again” in a while.",
        "slow": "The answer took longer than allowed. Lower “Longest answer”, or try later.",
        "long": "This is more than the model can read. Shorten the question, or start a new topic.",
        "refused": "The model's server refuses the key of this page: an administrator has to check the API key.",
        "missing": "The server no longer has this model: reload the page.",
        "rejected": "The model's server does not take this request.",
        "error": "The model's server failed. Press “Answer again”.",
    },
}
"""What went wrong with an answer, and what to do."""

NOTES: dict[Language, dict[str, str]] = {
    "zh": {
        "stopped": "已停止",
        "cut": "已达到“最长回答”，到此为止",
        "empty": "（空回答）",
        "dropped": "对话太长，最早的 {count} 条消息模型没有读到",
        "welcome": "你好！想聊点什么？",
    },
    "en": {
        "stopped": "Stopped",
        "cut": "Cut at the longest answer that is set",
        "empty": "(an empty answer)",
        "dropped": "The conversation is long: the model did not read its first {count} messages",
        "welcome": "Hello! What shall we talk about?",
    },
}
"""Said about an answer, or in place of one."""

CONDITIONS: dict[Language, dict[str, str]] = {
    "zh": {
        "ready": "就绪",
        "busy": "繁忙：{waiting} 个问题在排队",
        "loading": "模型加载中，请稍候…",
        "refused": "模型服务拒绝了页面的密钥",
        "unreachable": "连不上模型服务，正在重试…",
        "offline": "与页面服务器的连接断开，正在重试…",
        "unnamed": "未命名",
        "remove": "删除对话",
        "none": "还没有对话",
        "shade": "深色或浅色",
        "leave": "退出登录",
    },
    "en": {
        "ready": "Ready",
        "busy": "Busy: {waiting} questions are waiting",
        "loading": "The model is being loaded, one moment…",
        "refused": "The model's server refuses the key of this page",
        "unreachable": "The model cannot be reached; trying again…",
        "offline": "The connection to the page's server is lost; trying again…",
        "unnamed": "Untitled",
        "remove": "Delete conversation",
        "none": "No conversations yet",
        "shade": "Dark or light",
        "leave": "Log out",
    },
}
"""Said by the scripts in the browser."""

LOGIN: dict[Language, dict[str, str]] = {
    "zh": {
        "username": "用户名",
        "password": "密码",
        "enter": "登录",
        "wrong": "用户名或密码不对。",
        "many": "一分钟内错了太多次，请稍后再试。",
    },
    "en": {
        "username": "Username",
        "password": "Password",
        "enter": "Log in",
        "wrong": "Username or password is wrong.",
        "many": "Too many wrong passwords within a minute: try again later.",
    },
}
"""Of the login's form."""


def language(text: object) -> Language:
    """The one to speak to a browser that prefers ``text``, such as `zh-TW` or `de`."""
    return "zh" if str(text).lower().startswith("zh") else "en"
