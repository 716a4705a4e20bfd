"""The report in a browser: it asks the network for nothing, plays what the parquet files hold, and works by keyboard on small and dark
screens. Needs Chromium, which scripts/setup_debian.sh installs; where CI runs, a skip here is not allowed."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from rl.report import write_report
from rl.samples import read_samples
from tests.oracles.report_runs import EOS, write_lines, write_run

STEPS = 32
ATTACK = "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>\u202e<b>bold</b> & so on"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        pytest.skip("no Chromium on this machine; bash scripts/setup_debian.sh installs it")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found)
        yield running
        running.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "small", updates=12, every=4, canvas=64, steps=STEPS)
    write_report([folder])
    return folder


@pytest.fixture
def show(browser):
    """Opens a report; whatever it asks for or complains about fails the test."""
    pages: list[Page] = []
    wrong: list[str] = []

    def open_page(path: Path, width: int = 1280, height: int = 900, theme: Any = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
        page = context.new_page()
        page.set_default_timeout(10_000)
        address = path.resolve().as_uri()
        page.on("request", lambda request: wrong.append(request.url) if request.url.split("#")[0] != address else None)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert [text for text in wrong if not text.startswith("data:")] == []


def cells(page: Page, pane: int = 0) -> list[tuple[str, list[str]]]:
    """Text and classes of every position on show."""
    found = page.locator(".pane").nth(pane).locator(".cells span")
    return found.evaluate_all("spans => spans.map(span => [span.textContent, [...span.classList]])")


def looks(text: str) -> str:
    """A token as the page writes it."""
    return "∎" if text == EOS else text.replace("\n", "↵")


def expected(row: dict[str, Any], step: int, steps: int = STEPS) -> list[str | None]:
    """What stands at each position after ``step`` steps; None: a mask."""
    return [
        looks(text) if hint or (reveal < step and reveal < steps) else None
        for text, reveal, hint in zip(row["token_texts"], row["reveal_step"], row["hint"], strict=True)
    ]


def shown(page: Page, pane: int = 0) -> list[str | None]:
    found = cells(page, pane)
    assert all(("mask" in classes) == (text == "") for text, classes in found)
    return [None if "mask" in classes else text for text, classes in found]


def last_step(row: dict[str, Any]) -> int:
    return 1 + max(step for step in row["reveal_step"] if step < STEPS)


def rows_of(run: Path, name: str) -> list[dict[str, Any]]:
    return read_samples(run / "rollouts" / f"{name}.parquet")


def test_a_trajectory_is_stepped_through_by_keyboard(show, run):
    page = show(run / "report.html")
    viewer = page.locator(".viewer")
    row = rows_of(run, "000011")[0]
    last = last_step(row)
    assert shown(page) == expected(row, last)  # opens finished, at the last update
    viewer.focus()
    page.keyboard.press("Home")
    for step in range(last + 1):
        assert shown(page) == expected(row, step), step
        opened = sum(text is not None for text in shown(page))
        assert page.locator(".status").text_content() == f"step {step} of {last} · {opened} of 64 revealed"
        fresh = [i for i, (_, classes) in enumerate(cells(page)) if "new" in classes]
        wanted = [i for i, reveal in enumerate(row["reveal_step"]) if step and reveal == step - 1]
        assert fresh == (wanted if step < last else [])
        page.keyboard.press("ArrowRight")
    assert shown(page) == expected(row, last)
    page.keyboard.press("ArrowLeft")
    assert shown(page) == expected(row, last - 1)
    page.keyboard.press("Home")
    assert shown(page) == expected(row, 0)
    page.keyboard.press("End")
    assert shown(page) == expected(row, last)


def test_other_rollouts_and_updates_by_keyboard_and_hints(show, run):
    page = show(run / "report.html")
    page.locator(".viewer").focus()
    page.keyboard.press("n")
    row = rows_of(run, "000011")[1]
    assert row["hint"][:2] == [True, True]
    assert shown(page) == expected(row, last_step(row))
    page.keyboard.press("Home")
    assert shown(page) == expected(row, 0)
    assert [i for i, (_, classes) in enumerate(cells(page)) if "hint" in classes] == [0, 1]
    assert shown(page)[:2] == [looks(text) for text in row["token_texts"][:2]]
    page.keyboard.press("P")
    row = rows_of(run, "000010")[1]
    assert shown(page) == expected(row, last_step(row))
    page.keyboard.press("N")
    page.keyboard.press("p")
    row = rows_of(run, "000011")[0]
    assert shown(page) == expected(row, last_step(row))
    page.get_by_label("Update", exact=True).select_option("3")
    page.get_by_label("Rollout", exact=True).select_option("2")
    row = rows_of(run, "000003")[2]
    assert shown(page) == expected(row, last_step(row))


def test_before_and_after_stand_side_by_side(show, run):
    page = show(run / "report.html")
    page.locator(".viewer").focus()
    page.keyboard.press("b")
    before, after = rows_of(run, "eval-start"), rows_of(run, "eval-end")
    assert page.locator(".pane h3").all_text_contents() == ["before RL", "after RL"]
    page.keyboard.press("n")
    longest = max(last_step(before[1]), last_step(after[1]))
    page.keyboard.press("Home")
    for step in range(longest + 1):
        for pane, row in enumerate((before[1], after[1])):
            assert shown(page, pane) == expected(row, step)
        page.keyboard.press("ArrowRight")
    assert page.locator(".prompt p").text_content() == before[1]["prompt"]
    page.keyboard.press("b")
    assert page.locator(".pane").count() == 1


def test_colours_and_the_read_out_show_the_numbers_of_the_file(show, run):
    page = show(run / "report.html")
    page.locator(".viewer").focus()
    row = rows_of(run, "000011")[0]
    position = next(i for i, reveal in enumerate(row["reveal_step"]) if reveal < STEPS and i > 4)
    page.locator(".cells span").nth(position).hover()
    told = page.locator(".token").text_content() or ""
    assert told.startswith(
        f"position {position} · {json.dumps(row['token_texts'][position])} · id {row['tokens'][position]}"
    )
    assert f"revealed in step {row['reveal_step'][position] + 1} of {STEPS}" in told
    for label, exact, within in (
        ("probability", math.exp(row["raw_logprob"][position]), 0.02),
        ("entropy", row["entropy"][position], 0.02),
        ("advantage", row["advantage"], 0.002),
        ("ratio", row["ratio"][position], 0.02),
    ):
        found = re.search(rf"{label} (−?[\d.e−]+)", told)
        assert found, (label, told)
        assert float(found[1].replace("−", "-")) == pytest.approx(exact, abs=within)
    looks_like = []
    for key, name in zip("1234", ("step", "confidence", "advantage", "ratio"), strict=True):
        page.keyboard.press(key)
        assert page.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed") == "true"
        looks_like.append(page.locator(".cells span").nth(position).evaluate("cell => cell.style.backgroundColor"))
    assert all(looks_like)
    assert len(set(looks_like)) >= 3
    page.keyboard.press("Home")
    assert page.locator(".cells span").nth(position).evaluate("cell => cell.style.backgroundColor") == ""
    page.locator(".cells span").nth(position).hover()
    assert page.locator(".token").text_content() == f"position {position} · masked"


def test_space_plays_and_a_button_pauses(show, run):
    page = show(run / "report.html")
    page.locator(".viewer").focus()
    page.keyboard.press(" ")
    assert page.locator(".play button").text_content() == "❚❚ pause"
    expect(page.locator(".status")).to_contain_text(re.compile("^step [3-9] "))  # it moves by itself
    page.locator(".play button").click()
    at = page.locator(".status").text_content()
    page.wait_for_timeout(600)
    assert page.locator(".status").text_content() == at
    page.keyboard.press("?")
    assert page.locator(".keys").is_visible()


def test_curves_are_read_at_one_update(show, run):
    page = show(run / "report.html")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    page.locator("#at").focus()
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.locator("#curves output").text_content() == "update 5"
    for title, key in (("entropy", "entropy"), ("length", "length"), ("clipped units", "clip_share")):
        panel = page.locator("figure").filter(has=page.get_by_text(title, exact=True)).first
        value = panel.locator(".values").text_content() or ""
        assert float(value.replace("−", "-")) == pytest.approx(metrics[5][key], rel=0.006)
        assert panel.locator("svg .hair").count() == 1
    page.get_by_role("button", name="See its rollouts").click()
    row = rows_of(run, "000005")[0]
    assert shown(page) == expected(row, last_step(row))


def test_alarms_are_listed_and_marked(show, run):
    page = show(run / "report.html")
    assert page.locator(".alarms li").count() == 2
    assert "What to do: lower the weight of the format reward" in (page.locator(".alarms").text_content() or "")
    assert page.locator("figure").first.locator(".mark").count() == 3
    page.locator(".alarms button").first.click()
    assert page.locator("#curves output").text_content() == "update 6"


def test_hostile_texts_are_only_texts(show, tmp_path):
    hostile = write_run(tmp_path / "hostile", name=ATTACK, updates=3, every=1, canvas=64, steps=32, texts=[ATTACK])
    row = {"update": 1, "monitor": ATTACK, "level": "stop", "message": ATTACK, "remedy": ATTACK}
    write_lines(hostile / "health.jsonl", [row])
    page = show(write_report([hostile]))
    assert page.locator("img").count() == 0
    assert page.evaluate("window.hit") is None
    assert page.locator("h1").text_content() == ATTACK
    text = "".join(cell or "" for cell in shown(page))
    assert text.startswith(
        "</script><script>window.hit=1</script><img src=x onerror=window.hit=1>⟨202e⟩<b>bold</b>"[:55]
    )
    assert ATTACK in (page.locator(".alarms li").text_content() or "")


def test_several_runs_on_one_page(show, run, tmp_path):
    other = write_run(tmp_path / "other", updates=8, planned=20, every=4, canvas=16, steps=8, lr=3e-6, finished=False)
    page = show(write_report([run, other], tmp_path / "both.html"))
    assert page.locator("h1").text_content() == "2 runs compared"
    assert page.locator("#summary tbody").first.locator("tr").count() == 2
    assert page.get_by_role("row", name="optim.lr 1e-05 3e-06").count() == 1
    assert "8 of 20 updates" in (page.locator("#summary").text_content() or "")
    page.get_by_label("Run", exact=True).select_option("1")
    row = rows_of(other, "000000")[0]
    assert len(shown(page)) == len(row["tokens"]) == 16


@pytest.mark.parametrize(
    "files", [["recipe.yaml"], ["metrics.jsonl"], ["warm_start.jsonl"], ["evaluations.jsonl"], ["summary.json"]]
)
def test_a_run_that_has_just_begun(show, run, tmp_path, files):
    for name in files:
        shutil.copyfile(run / name, tmp_path / name)
    page = show(write_report([tmp_path]))
    assert page.locator("h1").is_visible()
    assert "There are no rollouts to show" in (page.locator("#rollouts").text_content() or "")
    drawn = page.locator("figure").count()
    assert (drawn > 0) == (files[0] in ("metrics.jsonl", "warm_start.jsonl", "evaluations.jsonl"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_nothing_overflows_and_the_theme_can_be_chosen(show, run, width, height, theme):
    page = show(run / "report.html", width, height, theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shade = "getComputedStyle(document.body).backgroundColor"
    system = page.evaluate(shade)
    seen = []
    for _ in range(3):
        page.locator("#theme").click()
        seen.append(page.evaluate(shade))
    assert seen[2] == system
    assert system == seen[0 if theme == "light" else 1]
    assert seen[0] != seen[1]


def test_every_control_has_a_name_and_can_be_reached(show, run):
    page = show(run / "report.html")
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, select, input, a, svg')].filter((one) => !one.closest('[aria-hidden]')
           && !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length)).length"""
    )
    assert nameless == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    ring = page.locator(".viewer")
    ring.focus()
    page.keyboard.press("ArrowLeft")
    assert "solid" in ring.evaluate("node => getComputedStyle(node).outline")


def test_validation_by_another_reward_has_its_own_figure(show, run, tmp_path):
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    for row in rows:
        if row["split"] == "validation":
            row["reward"] = "format"
    shutil.copyfile(run / "recipe.yaml", tmp_path / "recipe.yaml")
    write_lines(tmp_path / "evaluations.jsonl", rows)
    page = show(write_report([tmp_path]))
    titles = page.locator("figure .name").all_text_contents()
    assert titles == ["accuracy", "validation: format", "accuracy by denoising steps", "pass@k"]
    assert "validation" not in (page.locator("figure").first.locator(".values").text_content() or "")


def test_figures_without_variation_are_one_line_that_opens(show, run, tmp_path):
    shutil.copytree(run, tmp_path / "flat")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row |= {"user/always": 0.0, "user/moves": row["update"], "entropy": 1.5, "length": 7.0}
    write_lines(tmp_path / "flat" / "metrics.jsonl", rows)
    alarm = {"update": 3, "monitor": "length_drift", "level": "warn", "message": "m", "remedy": "r"}
    write_lines(tmp_path / "flat" / "health.jsonl", [alarm])
    page = show(write_report([tmp_path / "flat"]))
    folded = page.locator("details.flat")
    lines = folded.locator("summary").all_text_contents()
    assert any("always 0" in line for line in lines)
    assert any("entropy 1.5" in line for line in lines)
    entropy = page.locator("figure").filter(has=page.get_by_text("entropy", exact=True))
    assert not entropy.is_visible()
    assert page.locator("figure").filter(has=page.get_by_text("moves", exact=True)).is_visible()
    # An alarm points at it: it stays.
    assert page.locator("figure").filter(has=page.get_by_text("length", exact=True)).is_visible()
    folded.filter(has=page.get_by_text("entropy 1.5")).locator("summary").click()
    assert entropy.is_visible()
    expect(entropy.locator("svg path")).not_to_have_count(0)  # drawn once it is open
