"""The page in a browser: what a reader does, what it says, and what a screen reader gets.

Needs Playwright for Python and a Chromium (PFFDST_TEST_CHROMIUM, or `chromium` on the path); the accessibility check
needs axe-core's axe.min.js (PFFDST_TEST_AXE, or npm to fetch it).
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from pffdst.report.figures import bytes_to_reach, drawn_runs, spread_of
from pffdst.report.groups import group_runs, keys_of
from pffdst.report.html import page
from pffdst.report.library import Library
from pffdst.report.payload import payload
from pffdst.report.serve import open_server
from tests.report.stats import accuracy_at, paired_ratio

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def address(shelf, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(payload(shelf)), encoding="utf-8")
    return path.as_uri()


class Tab:
    """A page, what its console said and what it asked the network for."""

    def __init__(self, browser, address, **settings):
        self.context = browser.new_context(viewport={"width": 1280, "height": 900}, **settings)
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready]")

    def column(self, table, number):
        cells = self.page.locator(f"#{table} tbody tr > :nth-child({number})")
        return [text.split("\n")[0].strip() for text in cells.all_inner_texts()]

    def look_at(self, plot):
        self.page.locator(f"#{plot}").scroll_into_view_if_needed()
        self.page.wait_for_selector(f"#{plot} .main-svg")

    def look_at_everything(self):
        self.page.wait_for_function("typeof Plotly !== 'undefined'")
        for plot in self.page.locator(".plot").all():
            plot.scroll_into_view_if_needed()
            self.page.wait_for_timeout(40)


@pytest.fixture
def tab(browser, address):
    made = Tab(browser, address)
    yield made
    made.context.close()
    assert made.said == []
    assert [url for url in made.asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_the_first_screen_says_which_method_how_accurate_how_many_bytes(tab, groups):
    best = max(groups, key=lambda group: spread_of([run.final["ema_acc_global"] for run in group.runs]).mean)
    found = spread_of([run.final["ema_acc_global"] for run in best.runs])
    card = tab.page.locator(".card").first.inner_text()
    assert best.label in card
    spread = f" ± {100 * found.sd:.1f}" if len(best.runs) > 1 else ""
    assert f"{100 * found.mean:.1f}{spread} %" in card.replace("\n", "")
    assert tab.page.locator("#groups tbody tr").first.bounding_box()["y"] < 900


@pytest.mark.parametrize(
    ("seeds", "others", "told"),
    [
        ((0,), (0,), ", from one seed: no interval"),
        ((0, 1), (1,), ", on the one shared seed: no interval"),
        ((0, 1, 2), (0, 1), ", on the 2 shared seeds"),
        ((0,), (1,), ", from different seeds"),
    ],
)
def test_a_lead_is_that_of_the_seeds_of_both(browser, tmp_path, write, seeds, others, told):
    for method, own in (("pffdst", seeds), ("feddst", others)):
        for seed in own:
            write(tmp_path / "logs" / f"{method}{seed}", method=method, seed=seed)
    shelf = Library([tmp_path / "logs"]).look()
    path = tmp_path / "report.html"
    path.write_text(page(payload(shelf)), encoding="utf-8")
    tab = Tab(browser, path.as_uri())
    tab.page.fill("#targets", "20")  # both reach it
    tab.page.press("#targets", "Enter")
    card, fewest = (tab.page.locator(".card").nth(i).inner_text() for i in (0, 1))
    tab.context.close()
    groups = group_runs(shelf.runs, keys_of(shelf.runs))
    scores = [{run.config["seed"]: 100 * run.final["ema_acc_global"] for run in group.runs} for group in groups]
    scores.sort(key=lambda each: -spread_of(list(each.values())).mean)
    best, second = ([each[seed] for seed in {*seeds} & {*others} or each] for each in scores)
    points = spread_of(best).mean - spread_of(second).mean
    assert f"{abs(points):.1f} points {'below' if points < 0 else 'above'} " in card
    assert told in card
    assert ("from different seeds" in fewest, "–" in fewest) == (not {*seeds} & {*others}, False)


def opened(browser, folder):
    path = folder.parent / "report.html"
    path.write_text(page(payload(Library([folder]).look())), encoding="utf-8")
    return Tab(browser, path.as_uri())


def test_an_accuracy_within_a_budget_tells_of_how_many_runs_it_is(browser, tmp_path, write):
    """One seed of three is evaluated before the budget is spent."""
    for seed in range(3):
        write(tmp_path / "logs" / f"pffdst{seed}", seed=seed, every=1 if seed == 0 else 10)
        write(tmp_path / "logs" / f"feddst{seed}", seed=seed, method="feddst", every=1)
    tab = opened(browser, tmp_path / "logs")
    tab.page.fill("#budgets", "40 MB, 80 MB")
    tab.page.select_option("#reference", "feddst")
    rows = {row.split("\t")[0].strip(): row for row in tab.page.locator("#at tbody tr").all_inner_texts()}
    tab.context.close()
    [mine] = [row for label, row in rows.items() if label.startswith("pffdst")]
    assert mine.count("1 of 3 runs") == 1
    assert mine.count("1 of 3 seeds: no interval") == 1
    assert "of 3" not in rows["feddst"]


def test_the_end_of_a_curve_is_that_of_the_table_and_what_is_not_drawn_is_named(browser, tmp_path, write):
    for seed, every in enumerate((6, 7)):  # evaluated in rounds 6, 12, 18, 20 and 7, 14, 20
        write(tmp_path / "logs" / f"pffdst{seed}", seed=seed, every=every)
    for seed, step in enumerate((1, 50)):  # one stops before the other, which has a round alone, is evaluated
        write(
            tmp_path / "logs" / f"feddst{seed}", method="feddst", seed=seed, every=step, done=19 if step == 1 else None
        )
    tab = opened(browser, tmp_path / "logs")
    tab.page.check("#unfinished")
    tab.look_at("plot-curves")
    label = tab.page.get_attribute("#plot-curves", "aria-label")
    rounds = tab.page.evaluate("document.getElementById('plot-curves').data.find((t) => t.meta.said).x")
    accuracy = dict(zip(tab.column("groups", 1), tab.column("groups", 2), strict=True))["pffdst"].split(" ")[0]
    caption = tab.page.locator("#caption-curves").inner_text()
    tab.page.fill("#filter", "feddst")
    alone = tab.page.locator("#plot-curves").inner_text()
    tab.context.close()
    assert tab.said == []
    assert rounds == [7, 12, 14, 18, 20]
    assert f"At the end: pffdst {accuracy} % at round 20. Not drawn: feddst (seeds share no range)." in label
    assert "Not drawn: feddst (seeds share no range)." in caption
    assert "Not drawn: feddst (seeds share no range)." in alone


def test_every_picture_is_drawn_and_tells_itself_in_words(tab):
    tab.look_at_everything()
    for plot in tab.page.locator(".plot").all():
        assert plot.locator(".main-svg").count() > 0
        assert plot.get_attribute("role") == "img"
        assert (
            "feddst" in plot.get_attribute("aria-label")
            or "At the end" in plot.get_attribute("aria-label")
            or ("Classes by client" in plot.get_attribute("aria-label"))
        )


def test_the_page_and_the_files_have_the_same_figures(tab, groups):
    """The tables of equal accuracy and equal bytes, against the same figures in Python."""
    tab.page.fill("#targets", "40, 55")
    tab.page.fill("#budgets", "100 MB, 500 MB")
    labels, rows = tab.column("reach", 1), {}
    assert sorted(labels) == sorted(group.label for group in groups)
    for number, level in ((2, 0.40), (3, 0.55)):
        unit = tab.page.locator(f"#reach thead th:nth-child({number}) .unit").inner_text().strip(", ")
        scale = {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
        for label, cell in zip(labels, tab.column("reach", number), strict=True):
            group = next(g for g in groups if g.label == label)
            drawn = drawn_runs(group, "ema_acc_global")
            found = spread_of([bytes_to_reach(run, "ema_acc_global", level) for run in drawn])
            rows[label, level] = found.n
            if found.n == 0:
                assert cell == "not reached"
            else:
                assert float(cell.split(" ")[0]) == pytest.approx(found.mean / scale, rel=0.02)
    assert sum(count > 0 for count in rows.values()) > 0
    most = [rows[label, 0.55] > 0 for label in labels]  # who reaches the highest level stands first, and by its bytes
    assert most == sorted(most, reverse=True)
    needed = [float(cell.split(" ")[0]) for cell in tab.column("reach", 3) if cell != "not reached"]
    assert needed == sorted(needed)
    last = [float(cell.split(" ")[0]) for cell in tab.column("at", 3) if cell[0].isdigit()]
    assert last == sorted(last, reverse=True)
    assert len(last) > 1
    for number, budget in ((2, 100e6), (3, 500e6)):
        for label, cell in zip(tab.column("at", 1), tab.column("at", number), strict=True):
            group = next(g for g in groups if g.label == label)
            found = spread_of([accuracy_at(run, "ema_acc_global", budget) for run in group.runs])
            assert cell.startswith(f"{100 * found.mean:.1f}" if found.n else "none yet")


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(tab, shelf):
    tab.page.click("#sort-sort-seed")
    tab.page.wait_for_selector("#runs th[aria-sort=ascending] #sort-sort-seed")  # a busy page is told of a click later
    seeds = [int(text) for text in tab.column("runs", 7) if text.isdecimal()]
    assert seeds == sorted(seeds)
    assert len(set(seeds)) > 2
    tab.page.click("#sort-sort-seed")
    tab.page.wait_for_selector("#runs th[aria-sort=descending] #sort-sort-seed")
    seeds = [int(text) for text in tab.column("runs", 7) if text.isdecimal()]
    assert seeds == sorted(seeds, reverse=True)
    assert tab.page.locator("#runs th[aria-sort=descending]").inner_text().startswith("Seed")
    assert tab.page.evaluate("document.activeElement.id") == "sort-sort-seed"
    assert len(tab.column("runs", 2)) == len(shelf.runs)


def test_the_filter_holds_for_tables_and_pictures(tab):
    tab.page.fill("#filter", "feddst sparsity=0.95")
    assert tab.column("groups", 1) == ["feddst"]
    assert tab.page.locator("#runs-count").inner_text().startswith("2 of ")
    tab.look_at("plot-curves")
    assert tab.page.evaluate("document.getElementById('plot-curves').data.filter((t) => t.meta.said).length") == 1
    tab.page.fill("#filter", "nothing like it")
    assert "No run matches the filter" in tab.page.locator("#headline").inner_text()


def test_a_method_is_hidden_from_the_pictures_by_keyboard(tab, groups):
    tab.look_at("plot-curves")
    count = "document.getElementById('plot-curves').data.filter((trace) => trace.meta.said).length"
    assert tab.page.evaluate(count) == len(groups)
    key = tab.page.locator("#keys-curves button").first
    key.focus()
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate(count) == len(groups) - 1
    assert tab.page.locator("#keys-curves button").first.get_attribute("aria-pressed") == "false"
    assert tab.page.evaluate("document.activeElement.parentElement.parentElement.id") == "keys-curves"


def test_arrow_keys_read_a_plot_aloud(tab, groups):
    tab.look_at("plot-curves")
    tab.page.locator("#plot-curves").focus()
    for _ in range(3):
        tab.page.keyboard.press("ArrowRight")
    assert "round 15: " in tab.page.locator("#announce").inner_text()
    assert groups[0].label in tab.page.locator("#announce").inner_text()


def test_groups_follow_the_chosen_keys(tab, groups):
    tab.page.click("#group-by-summary")
    tab.page.uncheck("#key-sparsity")
    coarse = {(group.values["method_name"], group.values["freeze"]) for group in groups}
    assert tab.page.locator("#groups tbody tr").count() == len(coarse) < len(groups)
    tab.page.click("#keys-usual")
    assert tab.page.locator("#groups tbody tr").count() == len(groups)
    tab.page.keyboard.press("Escape")
    assert not tab.page.locator("#group-by-list").is_visible()


def test_chosen_runs_show_what_differs(tab):
    for name in ("sweep/0", "sweep/3"):
        tab.page.get_by_label(f"Choose {name}", exact=True).check()
    assert sorted(tab.column("differences", 1)) == ["seed", "sparsity"]


def test_what_was_left_out_is_named_with_its_reason(tab):
    text = tab.page.locator("#left").inner_text()
    for words in (
        "no run has been written here",
        "the result is in",
        "rows of metrics.csv are damaged",
        "after round 10 of 20",
    ):
        assert words in text


def test_a_reload_keeps_what_was_chosen(tab):
    tab.page.fill("#filter", "pffdst")
    tab.page.check("#x-bytes", force=True)
    tab.page.reload()
    tab.page.wait_for_selector("body[data-ready]")
    assert tab.page.input_value("#filter") == "pffdst"
    assert tab.page.is_checked("#x-bytes")


def test_names_are_text_whatever_they_hold(browser, tmp_path, write):
    evil = "<img src=x onerror=\"document.body.dataset.evil='yes'\"><b>bold</b>"
    for seed in (0, 1):
        write(tmp_path / "logs" / f"<i>{seed}", method=evil, seed=seed, note=evil)
    path = tmp_path / "report.html"
    path.write_text(page(payload(Library([tmp_path / "logs"]).look())), encoding="utf-8")
    tab = Tab(browser, path.as_uri())
    tab.page.locator("input[aria-label^='Choose']").first.check()
    tab.look_at_everything()
    assert tab.page.evaluate("document.body.dataset.evil") is None
    assert tab.page.locator("main b, main i, main img").count() == 0
    assert tab.said == []
    tab.context.close()


def test_a_live_page_shows_a_new_run_and_keeps_the_filter(browser, tmp_path, write):
    write(tmp_path / "logs/a")
    library = Library([tmp_path / "logs"])
    with open_server(lambda since: payload(library.look(), since), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        tab = Tab(browser, f"http://127.0.0.1:{server.server_address[1]}/")
        tab.look_at_everything()
        tab.page.fill("#filter", "pffdst")
        tab.page.locator("input[aria-label='Choose a']").check()
        write(tmp_path / "logs/b", seed=1)
        tab.page.wait_for_selector("input[aria-label='Choose b']", timeout=20_000)
        assert tab.page.input_value("#filter") == "pffdst"
        assert tab.page.is_checked("input[aria-label='Choose a']")
        tab.context.close()
        server.shutdown()
        thread.join()
    assert tab.said == []


@pytest.mark.parametrize(("scheme", "size"), [("light", None), ("dark", PHONE)], ids=["light", "dark, phone"])
def test_no_serious_finding_of_axe(browser, address, axe, scheme, size):
    tab = Tab(browser, address, color_scheme=scheme)
    if size is not None:
        tab.page.set_viewport_size(size)
    assert tab.page.get_attribute("html", "data-theme") == scheme
    tab.look_at_everything()
    assert tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tab.page.evaluate(axe)
    found = tab.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    worst = [each for each in found if each["impact"] in ("serious", "critical")]
    serious = {each["id"]: [node["html"] for node in each["nodes"]][:3] for each in worst}
    assert serious == {}
    tab.context.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    given = os.environ.get("PFFDST_TEST_AXE")
    if given is not None:
        return Path(given).read_text()
    if shutil.which("npm") is None:
        pytest.skip("no PFFDST_TEST_AXE, and no npm to fetch axe-core with")
    folder = tmp_path_factory.mktemp("axe")
    fetch = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), "axe-core"]
    if subprocess.run(fetch, capture_output=True, check=False, timeout=120).returncode != 0:
        pytest.skip("npm could not fetch axe-core; name its axe.min.js in PFFDST_TEST_AXE")
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


def colour_of(tab, label):
    return tab.page.evaluate(
        "(label) => document.getElementById('plot-curves').data"
        ".find((t) => t.name === label && t.meta.said).line.color",
        label,
    )


def test_paper_gets_every_figure_and_whole_tables(browser, address):
    tab = Tab(browser, address, color_scheme="dark")
    tab.page.wait_for_function("typeof Plotly !== 'undefined'")
    tab.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    for plot in tab.page.locator(".plot").all():
        assert plot.locator(".main-svg").count() > 0
    cut = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth + 1).length"
    assert tab.page.evaluate(cut) == 0
    assert tab.page.get_attribute("html", "data-theme") == "light"
    tab.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert tab.page.get_attribute("html", "data-theme") == "dark"
    assert tab.said == []
    tab.context.close()


def test_a_method_keeps_its_colour_whatever_the_filter(tab):
    tab.look_at("plot-curves")
    before = colour_of(tab, "feddst · sparsity 0.95")
    tab.page.fill("#filter", "feddst sparsity=0.95")
    assert colour_of(tab, "feddst") == before
    hue = "getComputedStyle(document.querySelector('#groups .swatch line')).stroke"
    assert tab.page.evaluate(hue) is not None


def test_no_label_of_a_point_covers_another(tab):
    tab.look_at("plot-pareto")
    boxes = [label.bounding_box() for label in tab.page.locator("#plot-pareto .annotation").all()]
    assert len(boxes) >= 2
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            apart = (
                a["x"] + a["width"] <= b["x"] + 1
                or b["x"] + b["width"] <= a["x"] + 1
                or a["y"] + a["height"] <= b["y"] + 1
                or b["y"] + b["height"] <= a["y"] + 1
            )
            assert apart, (a, b)


def test_many_lines_keep_the_scale_and_the_highest_are_named(browser, tmp_path, write):
    for number in range(40):
        write(tmp_path / "logs" / str(number), method=f"m{number}")
    path = tmp_path / "report.html"
    path.write_text(page(payload(Library([tmp_path / "logs"]).look())), encoding="utf-8")
    tab = Tab(browser, path.as_uri())
    tab.look_at("plot-curves")
    drawn = "document.getElementById('plot-curves')"
    low, high = tab.page.evaluate(f"{drawn}._fullLayout.yaxis.range")
    values = tab.page.evaluate(f"{drawn}.data.filter((t) => t.meta.said).map((t) => [t.name, t.y])")
    labels = tab.page.evaluate(f"{drawn}.layout.annotations.map((each) => [each.y, each.text])")
    tab.context.close()
    every = [value for _, line in values for value in line]
    room = max(every) - min(every)
    assert min(every) - 0.2 * room < low < min(every) < max(every) < high < max(every) + 0.2 * room
    heights = sorted(y for y, _ in labels)
    assert 10 < len(labels) < 25
    assert all(y - x > room / 25 for x, y in itertools.pairwise(heights))
    highest = sorted(values, key=lambda line: line[1][-1])[-len(labels) :]
    assert {text for _, text in labels} == {name for name, _ in highest}


def test_the_usual_levels_are_above_chance_and_reached_by_half(tab, groups):
    levels = [int(word) for word in tab.page.get_attribute("#targets", "placeholder").split(",")]
    for number, level in enumerate(levels, start=2):
        assert level > 10
        cells = tab.column("reach", number)
        assert 2 * sum(cell != "not reached" for cell in cells) >= len(groups)
    spent = tab.column("at", 3)
    assert 2 * sum(cell != "none yet" for cell in spent) >= len(groups)


def test_parts_as_shares_fill_their_row(tab):
    tab.look_at("plot-parts")
    tab.page.check("#parts-as-share", force=True)
    sums = tab.page.evaluate(
        "(() => { const d = document.getElementById('plot-parts').data.filter((t) => t.xaxis === 'x');"
        "return d[0].x.map((_, row) => d.reduce((sum, t) => sum + t.x[row], 0)); })()"
    )
    assert sums == pytest.approx([100] * len(sums), abs=1e-6)
    tab.page.check("#parts-as-log", force=True)
    assert tab.page.evaluate("document.getElementById('plot-parts').layout.xaxis.type") == "log"


def test_two_groups_side_by_side_are_compared_seed_by_seed(tab, groups):
    first, second = (next(g for g in groups if g.label == f"{name} · sparsity 0.95") for name in ("feddst", "pffdst"))
    tab.page.select_option("#pair-left", f"group:{first.label}")
    tab.page.select_option("#pair-right", f"group:{second.label}")
    row = tab.page.locator("#pair tbody tr", has_text="Training").inner_text()
    found = paired_ratio(second, first, lambda run: run.final["flops"])
    assert found.n == 2
    spread = f" ({found.low:.2f}\u00a0to\u00a0{found.high:.2f})" if f"{found.low:.2f}" != f"{found.high:.2f}" else ""
    assert f"{found.mean:.2f} ×{spread}" in row
    ends = [{run.seed: 100 * run.final["ema_acc_global"] for run in group.runs} for group in (second, first)]
    points = spread_of([ends[0][seed] - ends[1][seed] for seed in ends[1]])
    half = 12.706 * points.sd / 2**0.5  # Student's t with one degree of freedom
    told = tab.page.locator("#pair tbody tr", has_text="Accuracy").inner_text()
    assert f"{points.mean:+.1f}\u00a0±\u00a0{half:.1f} points".replace("-", "−") in told
    assert ("within chance (95\u00a0%)" in told) == (abs(points.mean) < half)
    assert "left=group" in tab.page.url


def test_the_time_of_a_deployment_follows_from_bytes_and_flops(tab, groups):
    tab.page.fill("#uplink", "1")
    tab.page.fill("#downlink", "2")
    tab.page.fill("#device", "4")
    heads = [text.strip() for text in tab.page.locator("#groups thead th").all_inner_texts()]
    number = next(i for i, text in enumerate(heads, start=1) if text.startswith("Deployed"))
    for label, cell in zip(tab.column("groups", 1), tab.column("groups", number), strict=True):
        group = next(g for g in groups if g.label == label)
        runs = [[run.final[key] for key in ("bytes_up", "bytes_down", "flops")] for run in group.runs]
        seconds = round(sum(8 * up / 20e6 + 8 * down / 40e6 + flops / 80e9 for up, down, flops in runs) / len(runs))
        hours, rest = divmod(seconds, 3600)
        assert cell == (f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}")


def test_a_filter_counts_what_it_leaves_and_can_be_read_in_the_address(tab):
    tab.page.fill("#filter", "feddst")
    assert "4 finished runs in 2 groups, filtered" in tab.page.locator("#subtitle").inner_text()
    assert tab.page.url.endswith("#filter=feddst")
    tab.page.fill("#filter", "nothing like it")
    tab.look_at_everything()
    assert "0 finished runs in 0 groups" in tab.page.locator("#subtitle").inner_text()
    assert tab.page.locator("#caption-pareto").inner_text() == ""


def test_the_densities_open_on_the_most_accurate_sparse_run(tab, shelf):
    sparse = [run for run in shelf.runs if run.has_figures and not run.twin and run.config["sparsity"] > 0]
    best = max(sparse, key=lambda run: run.final["ema_acc_global"])
    assert tab.page.input_value("#density-run") == best.id
