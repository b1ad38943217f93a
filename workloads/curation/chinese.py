"""What a report says, in Chinese: what a user named has one name, and a sentence that is not here is shown as it is."""

from __future__ import annotations

REASONS = {
    "train": "训练",
    "validation": "验证",
    "duplicate of another document": "与另一篇相同",
    "nearly like another document": "与另一篇近似",
    "nothing but lines of earlier documents": "只含前文已有的段落",
    "conversation without an answer": "没有回答的对话",
    "empty": "清洗后为空",
    "row that cannot be used": "无法读取的行",
    "minCharacters": "字数太少",
    "maxCharacters": "字数太多",
    "minChineseShare": "汉字比例太低",
    "maxSymbolShare": "符号比例太高",
    "maxDuplicateLineShare": "重复的行太多",
    "maxDuplicateNgramShare": "重复的片段太多",
    "language": "语言不符",
    "blocklist": "含有屏蔽词",
    "holds what is measured on": "含有评测内容",
    "not drawn by the weight of its source": "按来源权重未抽中",
}
"""Why documents are where they are."""
NOTES = {
    "files of archives were not read": "压缩包里未读取的文件",
    "rows that cannot be used were passed over": "跳过的无法使用的行",
    "documents were longer than 4,194,304 characters and became several": "超过 4,194,304 字而分成几篇的文章",
    "paragraphs that MNBVC flags as duplicates were left out": "去掉的 MNBVC 标为重复的段落",
    "text files that begin with <doc were read as WikiExtractor's": "以 <doc 开头、按 WikiExtractor 格式读取的文本文件",
    "pages of other name spaces than articles were left out": "去掉的非条目页面",
    "redirects were left out": "去掉的重定向页面",
    "rows had no column of the title that columns.title names": "没有 columns.title 所指标题列的行",
    "undecodable characters left out": "去掉的无法解码的字符",
    "empty files passed over": "跳过的空文件",
    "files were read as ": "文件的读取格式：",
    "files were not read, ": "未读取的文件：",
    "Windows line ends, mended": "改好的 Windows 换行",
    "turns without <s>, mended": "补上 <s> 的对话轮次",
    "turns without </s>, mended": "补上 </s> 的对话轮次",
    "turns without a space after the speaker, mended": "在说话人之后补上空格的对话轮次",
    "turns without a line break before </s>, mended": "在 </s> 之前补上换行的对话轮次",
    "turns had parts that are not read, and left out: ": "对话中去掉的未读取的字段：",
}
"""How notes on files begin."""


def note(sentence: str) -> str:
    """A note; what stands behind the known beginning, such as names of columns, stays."""
    return next(
        (chinese + sentence.removeprefix(begins) for begins, chinese in NOTES.items() if sentence.startswith(begins)),
        sentence,
    )
