"""What is asked of every checkpoint."""

from __future__ import annotations

from fluxbooth.judging.questions import Subject, base_questions, noun_of, plan_questions

TOY, GPU, DOG = (Subject(tokens, noun_of(tokens), ()) for tokens in ("tjtoy toy", "sparkgpu gpu", "mokka dog"))


def prompts(*subjects: Subject) -> dict[str, list[str]]:
    """The prompts of each kind of question."""
    found: dict[str, list[str]] = {}
    for question in plan_questions(subjects, (1, 2)):
        found.setdefault(question.kind, []).append(question.prompt)
    return found


def test_each_concept_each_pair_each_noun_and_nothing_is_asked_for() -> None:
    asked = prompts(TOY, GPU)
    assert asked["concept"] == [
        f"{tokens} {place}" for tokens in ("tjtoy toy", "sparkgpu gpu") for place in ("on a beach", "in a datacenter")
    ]
    assert asked["pair"] == ["tjtoy toy next to sparkgpu gpu on a beach"]
    assert asked["noun"] == ["a toy on a beach", "a gpu on a beach"]
    assert asked["nothing"] == ["a dog on grass", "a red car in a city"]
    assert len(prompts(TOY, GPU, DOG)["pair"]) == 3


def test_two_concepts_of_one_noun_share_its_question() -> None:
    assert prompts(TOY, Subject("zorg toy", "toy", ()))["noun"] == ["a toy on a beach"]


def test_what_is_a_concepts_noun_is_not_nothing() -> None:
    assert prompts(DOG)["nothing"] == ["a red car in a city", "a house in the snow"]


def test_a_concept_without_a_noun_is_asked_for_by_its_word_alone() -> None:
    asked = prompts(Subject("mokka", noun_of("mokka"), ()))
    assert asked["concept"][0] == "mokka on a beach"
    assert "noun" not in asked


def test_the_base_model_is_asked_for_the_nouns_in_the_class_tokens_places() -> None:
    questions = plan_questions([TOY, GPU], (1, 2))
    asked = [question.prompt for question in base_questions(questions)]
    assert "a toy next to a gpu on a beach" in asked
    assert len(asked) == len(set(asked)) == 7
    assert not any("tjtoy" in prompt for prompt in asked)
