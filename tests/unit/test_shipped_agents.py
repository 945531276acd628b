"""The included agents and pipelines load, and answer without an API key and without a network."""

# ruff: noqa: RUF001 - the Chinese punctuation is intended

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.catalog import load
from app.catalog.model import Catalog, PromptFlow
from app.runtime.errors import RunFailed
from app.settings import Settings
from tests.support.cpu_time import cpu_seconds
from tests.support.runtime import Recorder

Execute = Callable[..., Any]

DOCUMENT = """# The harbour

The harbour of Brunnau was opened in 1904. It made the town rich within twenty years. Some people like boats.

Ships brought coal, timber and grain to the harbour, and took salt and machines away. The town built a railway line
to the harbour in 1911 to move the coal. By 1925 every third family of the town lived on the harbour.

# The decline

After the war the ships grew too large for the harbour. The railway line to the harbour was closed in 1968. The town
tried to dig the harbour deeper, but the money ran out. Today the old harbour is a park."""

CHINESE = (
    "人工智能正在改变医疗行业。医院使用人工智能分析影像！今天天气很好。人工智能帮助医生更早发现疾病。"
    "医院使用人工智能分析影像！患者是否信任人工智能？专家认为医生仍然要做最后的决定。"
)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    settings = Settings()
    return load(settings.agents_path, settings.pipelines_path)


@pytest.fixture
def run(catalog: Catalog) -> Execute:
    """Runs a target with the inputs, and returns its outputs."""

    def run(target_id: str, **inputs: Any) -> Any:
        return Recorder().run(catalog, target_id, inputs)

    return run


@pytest.fixture
def summarize(run: Execute) -> Callable[..., str]:
    return lambda text, **more: run("mem_l1_summarizer", text=text, **more)["output"]


def test_every_agent_has_a_flow_without_and_a_flow_with_a_model(catalog: Catalog) -> None:
    for agent in catalog.agents.values():
        assert agent.default_flow == "default"
        assert not isinstance(agent.flow(), PromptFlow)
        assert isinstance(agent.flow("llm"), PromptFlow)


def test_the_pipeline_that_does_not_compute_runs_in_threads(catalog: Catalog) -> None:
    isolation = {id: pipeline.isolation for id, pipeline in catalog.pipelines.items()}
    assert isolation == {"customer_service_flow": "thread", "document_summary": "process"}


def test_loading_what_ships_costs_little(catalog: Catalog) -> None:
    assert cpu_seconds(lambda: load(Settings().agents_path, Settings().pipelines_path)) < 0.3


class TestSummarizer:
    def test_a_short_text_stays_as_it_is(self, run: Execute) -> None:
        assert run("mem_l1_summarizer", text="Test input") == {
            "output": "Test input",
            "metadata": {"model_used": "extractive", "tokens_used": 0},
        }

    def test_the_sentences_that_say_most_are_kept_in_their_order(
        self, summarize: Callable[..., str]
    ) -> None:
        text = " ".join(DOCUMENT.split("\n\n")[1:])
        summary = summarize(text, max_sentences=4)
        positions = [
            " ".join(text.split()).index(part) for part in summary.removesuffix(".").split(". ")
        ]
        assert len(positions) == 4
        assert positions == sorted(positions)
        assert "harbour" in summary
        assert "Some people like boats" not in summary

    def test_three_sentences_unless_told_otherwise(self, summarize: Callable[..., str]) -> None:
        assert (
            summarize("One fox runs. Two dogs sleep. Three cats eat. Four birds sing.").count(".")
            == 3
        )

    def test_chinese_is_cut_at_its_own_punctuation(self, summarize: Callable[..., str]) -> None:
        summary = summarize(CHINESE)
        sentences = [
            part for part in summary.replace("！", "。").replace("？", "。").split("。") if part
        ]
        assert len(sentences) == 3
        assert all(sentence in CHINESE for sentence in sentences)
        assert "人工智能" in summary
        assert "今天天气很好" not in summary
        assert " " not in summary

    def test_what_is_said_twice_is_taken_once(self, summarize: Callable[..., str]) -> None:
        assert summarize(CHINESE, max_sentences=5).count("医院使用人工智能分析影像！") == 1

    @pytest.mark.parametrize(
        ("text", "sentences"),
        [
            ("It costs 3.14 euros.", 1),
            ('He said "No." Then he left.', 2),
            ("他说：“好。”然后走了。", 2),
            ("A line that is\nmerely wrapped.", 1),
            ("A heading\n\nA sentence.", 2),
            ("用户：你好\n角色：你好呀", 2),
            ("Things:\n- one thing\n- another thing", 3),
            ("Почему? Потому что. कैसे हो? ठीक.", 4),
        ],
    )
    def test_sentences_end_where_a_reader_would_say_so(
        self, summarize: Callable[..., str], text: str, sentences: int
    ) -> None:
        """A text of exactly as many sentences as asked for comes back unchanged; one fewer shortens
        it.
        """
        assert summarize(text, max_sentences=sentences) == text
        if sentences > 1:
            assert len(summarize(text, max_sentences=sentences - 1)) < len(text)

    @pytest.mark.parametrize("text", ["", "   \n ", "。。。", "???", "🙂", "a" * 1000])
    def test_a_text_without_sentences_is_no_error(
        self, summarize: Callable[..., str], text: str
    ) -> None:
        assert summarize(text) == text.strip()

    def test_less_than_one_sentence_is_refused(self, summarize: Callable[..., str]) -> None:
        with pytest.raises(RunFailed, match="max_sentences must be at least 1"):
            summarize("Text.", max_sentences=0)

    @pytest.mark.parametrize(
        "part",
        ["One more sentence, number {}. ", "第{}句话很重要。", "word{} ", " \n ", "{}.", "?!"],
    )
    def test_a_large_text_takes_seconds_at_most(
        self, summarize: Callable[..., str], part: str
    ) -> None:
        text = "".join(part.format(n) for n in range(200_000 // len(part)))
        assert cpu_seconds(lambda: summarize(text), calls=1) < 5


class TestCustomerService:
    @pytest.mark.parametrize(
        ("query", "intent", "words"),
        [
            (
                "How do I reset my password?",
                "password_reset",
                ["reset your password", "Forgot password?"],
            ),
            ("I'm locked out and can't log in", "password_reset", ["reset your password"]),
            ("I want my money back", "refund", ["refund", "30 days"]),
            ("My parcel has not arrived", "shipping", ["Track"]),
            ("please DELETE my account", "account_deletion", ["Delete account"]),
            ("Where can I download the invoice?", "invoice", ["PDF"]),
            ("my credit card was declined", "payment", ["declined"]),
            ("How can I cancel my subscription?", "cancellation", ["Subscription"]),
            ("let me talk to a human", "human", ["support@example.com"]),
            ("我忘记密码了，怎么办？", "password_reset", ["重置密码"]),
            ("我想申请退款", "refund", ["30天"]),
            ("快递什么时候送到？", "shipping", ["物流"]),
            ("怎么注销账户", "account_deletion", ["注销账户"]),
        ],
    )
    def test_a_question_gets_the_answer_that_fits(
        self, run: Execute, query: str, intent: str, words: list[str]
    ) -> None:
        outputs = run("customer_service_flow", customer_query=query)
        assert outputs["intent"] == intent
        assert all(word in outputs["answer"] for word in words)

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("What is the weather on Mars?", "I do not know the answer"),
            ("Do you have a billion stickers?", "I do not know the answer"),
            ("", "I do not know the answer"),
            ("火星上的天气怎么样？", "我不知道这个问题的答案"),
        ],
    )
    def test_what_is_not_known_is_said_to_be_unknown(
        self, run: Execute, query: str, words: str
    ) -> None:
        outputs = run("customer_service_flow", customer_query=query)
        assert outputs["intent"] == "other"
        assert words in outputs["answer"]

    def test_what_is_mentioned_is_found_and_used(self, run: Execute) -> None:
        query = (
            "Refund order #A-12345 of 2024-12-01 over $20.50 to jo@example.com, call +49 30 1234567"
        )
        outputs = run("customer_service_flow", customer_query=query)
        assert outputs["entities"] == {
            "email": ["jo@example.com"],
            "date": ["2024-12-01"],
            "amount": ["$20.50"],
            "order": ["A-12345"],
            "phone": ["+49 30 1234567"],
        }
        assert "A-12345" in outputs["answer"]

    def test_entities_are_found_in_chinese(self, run: Execute) -> None:
        found = run("entity_extractor", text="订单号：20241201，12月3日付了300元，电话13800138000")[
            "output"
        ]
        assert found == {
            "date": ["12月3日"],
            "amount": ["300元"],
            "order": ["20241201"],
            "phone": ["13800138000"],
        }

    def test_no_model_is_named_where_none_was_asked(self, run: Execute) -> None:
        outputs = run("customer_service_flow", customer_query="refund")
        assert outputs["metadata"] == {"tokens_used": 0, "models_used": []}

    def test_the_answerer_finds_the_topic_itself_where_no_intent_is_known(
        self, run: Execute
    ) -> None:
        assert (
            "Forgot password?"
            in run("knowledge_answerer", query="How do I reset my password?")["output"]
        )
        assert "重置密码" in run("knowledge_answerer", query="密码忘了")["output"]
        assert (
            "I do not know"
            in run("knowledge_answerer", query="How tall is the Eiffel tower?")["output"]
        )

    def test_every_intent_but_other_has_an_answer(self, run: Execute, catalog: Catalog) -> None:
        llm = catalog.agents["intent_classifier"].flow("llm")
        assert isinstance(llm, PromptFlow)
        intents = llm.system_prompt.splitlines()[-1].split(", ")
        for intent in set(intents) - {"other"}:
            assert (
                "I do not know" not in run("knowledge_answerer", query="?", intent=intent)["output"]
            )


def questions(name: str) -> dict[str, list[str]]:
    return tomllib.loads((Path(__file__).parent / "questions" / name).read_text(encoding="utf-8"))


class TestQuestions:
    """What customers may write, in words that nobody wrote down for the agents."""

    @pytest.mark.parametrize("name", ["held_out.toml", "held_out_zh.toml", "tuning.toml"])
    def test_of_ten_questions_for_an_entry_at_least_eight_are_answered_right(
        self, run: Execute, name: str
    ) -> None:
        for intent, asked in questions(name).items():
            right = run(
                "knowledge_answerer", query="?" if asked[0].isascii() else "吗", intent=intent
            )["output"]
            wrong = [
                query
                for query in asked
                if run("customer_service_flow", customer_query=query)["answer"] != right
            ]
            assert len(wrong) <= 0.2 * len(asked), (intent, wrong)

    @pytest.mark.parametrize("name", ["held_out.toml", "held_out_zh.toml"])
    def test_the_answerer_alone_does_as_well(self, run: Execute, name: str) -> None:
        for intent, asked in questions(name).items():
            found = [
                run("knowledge_answerer", query=query)["metadata"]["intent"] for query in asked
            ]
            assert found.count(intent) >= 0.8 * len(asked), (intent, found)

    @pytest.mark.parametrize(
        ("query", "intent"),
        [
            ("My parcel arrived broken, I want my money back", "refund"),
            ("My order never arrived although I paid with my credit card", "shipping"),
            ("I want to delete my order before it is shipped", "cancellation"),
            ("I can't log in to download my invoice", "password_reset"),
            ("我的快递收到了，但是东西坏了，我要退款", "refund"),
        ],
    )
    def test_no_single_word_decides(self, run: Execute, query: str, intent: str) -> None:
        assert run("intent_classifier", query=query)["output"] == intent

    def test_a_misspelt_word_is_the_word_that_was_meant(self, run: Execute) -> None:
        assert run("intent_classifier", query="I forgto my passwrod")["output"] == "password_reset"
        assert run("intent_classifier", query="subscribtion")["output"] == "cancellation"

    def test_the_intent_comes_with_how_sure_it_is_and_the_next_best(self, run: Execute) -> None:
        sure = run("intent_classifier", query="How do I reset my password?")["metadata"]
        unsure = run("intent_classifier", query="the order")["metadata"]
        assert sure["confidence"] > 0.9 > unsure["confidence"] > 0
        assert 0 < unsure["second_confidence"] <= unsure["confidence"]
        assert sure["second"] != "password_reset"
        assert (sure["model_used"], sure["tokens_used"]) == (None, None)

    def test_the_answerer_says_which_intent_it_answers(self, run: Execute) -> None:
        found = run("knowledge_answerer", query="I want my money back")["metadata"]
        assert found["intent"] == "refund"
        assert 0.5 < found["confidence"] <= 1
        given = run("knowledge_answerer", query="I want my money back", intent="invoice")[
            "metadata"
        ]
        assert given["intent"] == "invoice"
        assert "confidence" not in given

    @pytest.mark.parametrize(
        "text", ["", " ", "?!", "🙂" * 500, "x" * 50_000, "refund " * 20_000, "\u202e\ufeff", "退"]
    )
    def test_no_query_is_an_error_or_takes_long(self, run: Execute, text: str) -> None:
        metadata = run("intent_classifier", query=text)["metadata"]
        assert 0 < metadata["confidence"] <= 1
        assert cpu_seconds(lambda: run("intent_classifier", query=text)) < 2

    def test_a_query_of_many_unknown_words_takes_no_long_time(self, run: Execute) -> None:
        query = " ".join(f"quibble{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}" for n in range(5000))
        assert cpu_seconds(lambda: run("intent_classifier", query=query), calls=1) < 5


class TestDocumentSummary:
    def test_a_document_is_summarized_by_section_and_as_a_whole(self, run: Execute) -> None:
        outputs = run("document_summary", text=DOCUMENT, max_sentences=2)
        assert len(outputs["key_points"]) == 2
        assert "railway" in outputs["key_points"][0]
        assert "decline" not in outputs["key_points"][1]  # a heading is no sentence
        assert len(outputs["summary"]) < len("".join(outputs["key_points"]))
        assert outputs["keywords"][0] == "harbour"
        assert outputs["metadata"] == {"tokens_used": 0, "models_used": ["extractive"]}

    @pytest.mark.parametrize("text", ["", "One sentence.", "一句话。"])
    def test_a_document_may_be_tiny(self, run: Execute, text: str) -> None:
        outputs = run("document_summary", text=text)
        assert (outputs["summary"], outputs["key_points"]) == (text, [text])

    def test_chinese_keywords_are_whole_words(self, run: Execute) -> None:
        assert run("document_summary", text=CHINESE)["keywords"][:2] == ["人工智能", "医院使用"]

    def test_no_text_is_lost_between_sections(self, run: Execute) -> None:
        text = (
            DOCUMENT + "\n \n" + "\n\n".join("A paragraph of some length. " * 20 for _ in range(10))
        )
        sections = run("section_splitter", text=text)["output"]
        assert "".join("".join(sections).split()) == "".join(text.split())
        assert len(sections) > 4
        assert max(map(len, sections)) < 3000
