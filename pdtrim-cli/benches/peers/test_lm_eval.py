"""The comparison with lm-eval on made-up items: needs neither lm-eval nor a build of ours.

python3 -m unittest, in this folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import stat
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import item_comparison
import lm_eval_data
import lm_eval_harness
import lm_eval_items
import lm_eval_table
from item_comparison import Metric, compare, metrics, our_item, their_item

FAKE_PDTRIM = f"""#!{sys.executable}
import json, sys
from pathlib import Path
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
lines = [{{"task": "piqa", "doc": 0, "loglikelihoods": [-1.0, -2.0], "gold": 0, "acc": True}}]
Path(given["--items"]).write_text("".join(json.dumps(line) + "\\n" for line in lines))
print(json.dumps({{"results": {{"piqa": {{"acc,none": 1.0}}}}}}))
"""


class Records(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.data = Path(folder.name)

    def publish(self, path: str, *records: Any) -> None:
        target = self.data / path
        target.parent.mkdir(parents=True, exist_ok=True)
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        target.write_text("".join(f"{line}\n" for line in lines))

    def records(self, task: str) -> list[dict]:
        return lm_eval_data.SOURCES[task].records(self.data)

    def test_piqa_takes_its_labels_from_the_file_beside_it(self) -> None:
        self.publish("piqa/valid.jsonl", {"goal": "a"}, {"goal": "b"})
        self.publish("piqa/valid-labels.lst", "1", "0")
        self.assertEqual(self.records("piqa"), [{"goal": "a", "label": 1}, {"goal": "b", "label": 0}])
        self.publish("piqa/valid-labels.lst", "1")
        with self.assertRaises(ValueError):
            self.records("piqa")

    def test_arc_choices_become_columns(self) -> None:
        choices = [{"text": "up", "label": "1"}, {"text": "down", "label": "2"}]
        published = {"id": "x", "question": {"stem": "Where?", "choices": choices}, "answerKey": "2"}
        self.publish("ARC-Easy/ARC-Easy-Test.jsonl", published)
        columns = {"text": ["up", "down"], "label": ["1", "2"]}
        reshaped = {"id": "x", "question": "Where?", "choices": columns, "answerKey": "2"}
        self.assertEqual(self.records("arc_easy"), [reshaped])

    def test_boolq_has_its_title_in_the_passage_and_a_number_as_label(self) -> None:
        original = {"question": "is it", "title": "T", "passage": "P", "answer": True}
        self.publish("boolq/dev.jsonl", original)
        self.assertEqual(self.records("boolq"), [{"question": "is it", "passage": "T -- P", "label": 1}])
        for label in ("false", False):
            self.publish("superglue/BoolQ/val.jsonl", {"question": "is it", "passage": "T -- P", "label": label})
            self.assertEqual(self.records("boolq"), [{"question": "is it", "passage": "T -- P", "label": 0}])

    def test_a_line_separator_inside_a_string_does_not_cut_a_record(self) -> None:
        path = self.data / "winogrande/dev.jsonl"
        path.parent.mkdir()
        path.write_text('{"sentence": "a\u2028b"}\n', encoding="utf-8")
        self.assertEqual(self.records("winogrande"), [{"sentence": "a\u2028b"}])

    def test_a_page_of_wikitext_begins_at_a_heading_of_the_first_level(self) -> None:
        first, second = " \n = One = \n \n = = Part = = \n text \n", " = Two = \n = = = Deeper = = = \n text = \n"
        self.assertEqual(lm_eval_data.wikitext_pages(first + second), [first.partition("\n")[2][:-1], second])

    def test_text_before_the_first_heading_is_a_page(self) -> None:
        self.assertEqual(lm_eval_data.wikitext_pages("lead\n = One = "), ["lead", " = One = "])

    def test_a_slice_is_published_as_the_whole_is(self) -> None:
        self.publish("piqa/valid.jsonl", *({"goal": i} for i in range(5)))
        self.publish("piqa/valid-labels.lst", *"01010")
        whole = self.records("piqa")
        with tempfile.TemporaryDirectory() as folder:
            lm_eval_data.write_slice(self.data, Path(folder), "piqa", 2, 2)
            self.assertEqual(lm_eval_data.SOURCES["piqa"].records(Path(folder)), whole[2:4])

    def test_records_are_written_where_the_task_files_look(self) -> None:
        self.publish("hellaswag/hellaswag.jsonl", {"label": 3})
        lm_eval_data.write_records(self.data, self.data, ["hellaswag"])
        self.assertEqual((self.data / "hellaswag.jsonl").read_text(), '{"label": 3}\n')
        for task in lm_eval_data.SOURCES:
            self.assertIn(f" {task}.jsonl\n", (lm_eval_harness.TASK_FILES / f"{task}.yaml").read_text())

    def test_our_sentences_pass_as_the_published_file(self) -> None:
        lm_eval_data.write_sentences(self.data)
        self.assertEqual([record["text"] for record in self.records("lambada_openai")], list(lm_eval_data.SENTENCES))

    def test_a_missing_file_is_one_line_with_all_its_names(self) -> None:
        with self.assertRaises(SystemExit) as caught:
            self.records("winogrande")
        self.assertTrue(str(caught.exception).startswith("error: no file winogrande/dev.jsonl or winogrande_1.1/dev"))


class Comparing(unittest.TestCase):
    def compare(self, ours: dict, theirs: dict, limit: float = 0.02) -> item_comparison.Comparison:
        scores = {"acc,none": 0.5, "acc_stderr,none": 0.1}
        return compare("piqa", [{"doc": 0, **ours}], [{"doc": 0, **theirs}], (scores, scores), limit)

    def test_a_sample_of_a_choice_becomes_an_item(self) -> None:
        sample = {"doc_id": 7, "arguments": [("a", " b"), ("a", " c")], "target": 1, "acc": 1.0, "acc_norm": 0.0}
        found = their_item({**sample, "filtered_resps": [(-2.0, False), (-1.0, True)]})
        self.assertEqual((found["doc"], found["loglikelihoods"], found["greedy"]), (7, [-2.0, -1.0], [False, True]))
        self.assertEqual((found["gold"], found["acc"], found["acc_norm"]), (1, 1.0, 0.0))

    def test_a_sample_of_a_text_becomes_an_item_of_one_score(self) -> None:
        sample = {"doc_id": 0, "arguments": [("text",)], "target": "text", "filtered_resps": [-9.0]}
        found = their_item({**sample, "word_perplexity": (-9.0, 3), "byte_perplexity": (-9.0, 12)})
        self.assertEqual((found["loglikelihoods"], found["words"], found["bytes"]), ([-9.0], 3, 12))
        self.assertNotIn("greedy", found)

    def test_our_lines_are_items_with_and_without_a_kind(self) -> None:
        self.assertEqual(our_item({"doc": 0, "loglikelihoods": [-1.0]})["loglikelihoods"], [-1.0])
        self.assertEqual(our_item({"kind": "text", "doc": 0, "loglikelihood": -9.0})["loglikelihoods"], [-9.0])
        self.assertEqual(our_item({"doc": 0, "loglikelihood": -9.0, "greedy": True})["greedy"], [True])

    def test_the_same_items_are_the_same_and_differences_within_the_tolerance_too(self) -> None:
        ours, theirs = {"loglikelihoods": [-1.0, -2.0], "acc": True}, {"loglikelihoods": [-1.01, -2.0], "acc": 1.0}
        found = self.compare(ours, theirs)
        self.assertTrue(found.is_same())
        self.assertEqual(len(found.differences), 2)
        self.assertAlmostEqual(found.to_json()["largest_difference"], 0.01)

    def test_an_item_beyond_the_tolerance_is_listed_with_its_values(self) -> None:
        found = self.compare({"loglikelihoods": [-1.0]}, {"loglikelihoods": [-1.5], "asked": [["a", " b"]]})
        self.assertFalse(found.is_same())
        self.assertEqual((found.beyond[0]["pdtrim"], found.beyond[0]["asked"]), ([-1.0], [["a", " b"]]))
        self.assertIn("piqa item 0: log-likelihoods -1.0000; lm-eval -1.5000", item_comparison.table([found]))

    def test_a_score_that_is_not_a_number_is_beyond_any_tolerance(self) -> None:
        self.assertFalse(self.compare({"loglikelihoods": [float("nan")]}, {"loglikelihoods": [-1.0]}).is_same())

    def test_a_long_text_may_differ_by_a_tolerance_per_thousand_tokens(self) -> None:
        theirs = {"loglikelihoods": [-9000.05]}
        self.assertTrue(self.compare({"loglikelihoods": [-9000.0], "tokens": 3000}, theirs).is_same())
        self.assertFalse(self.compare({"loglikelihoods": [-9000.0], "tokens": 2000}, theirs).is_same())

    def test_facts_have_to_be_equal(self) -> None:
        for name, ours, theirs in (("acc", False, 1.0), ("gold", 0, 1), ("greedy", [True], [False]), ("words", 3, 4)):
            found = self.compare({"loglikelihoods": [-1.0], name: ours}, {"loglikelihoods": [-1.0], name: theirs})
            self.assertFalse(found.is_same(), name)
            self.assertIn(f"piqa item 0: {name} {ours}; lm-eval {theirs}", item_comparison.table([found]))

    def test_other_items_or_choices_cannot_be_compared(self) -> None:
        item = {"doc": 0, "loglikelihoods": [-1.0]}
        window = compare("wikitext", [item], [{**item, "words": 3}], ({}, {}), 0.02)
        others = [[], [{**item, "doc": 1}], [{**item, "loglikelihoods": [-1.0, -2.0]}]]
        for found in (window, *(compare("piqa", ours, [item], ({}, {}), 0.02) for ours in others)):
            self.assertFalse(found.is_same())
            self.assertEqual(len(found.problems), 1)

    def test_standard_errors_count_to_four_digits_and_accuracies_to_the_last(self) -> None:
        self.assertTrue(Metric("acc", 0.5, 0.5, 0.03401, 0.03404).is_same())
        self.assertFalse(Metric("acc", 0.5, 0.5, 0.0340, 0.0341).is_same())
        self.assertFalse(Metric("acc", 0.5, 0.505, None, None).is_same())
        self.assertTrue(Metric("word_perplexity", 20.0, 20.001, None, None).is_same())
        self.assertFalse(Metric("word_perplexity", 20.0, 20.1, None, None).is_same())

    def test_a_metric_we_do_not_have_is_not_the_same(self) -> None:
        theirs = {"alias": "piqa", "sample_len": 2, "acc,none": 0.5, "acc_stderr,none": "N/A"}
        self.assertEqual(metrics({"acc,none": 0.5, "more,none": 1.0}, theirs), [Metric("acc", 0.5, 0.5, None, None)])
        self.assertFalse(metrics({}, theirs)[0].is_same())


class Items(unittest.TestCase):
    """The whole script, with lm-eval's side made up."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "pdtrim").write_text(FAKE_PDTRIM)
        (self.folder / "pdtrim").chmod(stat.S_IRWXU)
        (self.folder / "config.json").write_text("{}")
        (self.folder / "piqa").mkdir()
        (self.folder / "piqa/valid.jsonl").write_text('{"goal": "a"}\n')
        (self.folder / "piqa/valid-labels.lst").write_text("0\n")
        self.scored = mock.Mock(side_effect=lambda task, data: self.entry(-1.001))
        patches = {"version": lambda name: "0.4", "find_spec": lambda name: name}
        for name, value in patches.items():
            patch = mock.patch.object(lm_eval_items, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        patch = mock.patch.object(lm_eval_items.Sides, "scored", self.scored)
        patch.start()
        self.addCleanup(patch.stop)

    def entry(self, score: float) -> dict:
        item = {"doc": 0, "loglikelihoods": [score, -2.0], "gold": 0, "acc": 1.0, "asked": []}
        return {"items": [item], "scores": {"acc,none": 1.0, "acc_stderr,none": "N/A"}}

    def run_script(self, *extra: str) -> tuple[int, str]:
        folder = str(self.folder)
        given = ["--pdtrim", f"{folder}/pdtrim", "--model", folder, "--data", folder, "--tasks", "piqa", "--limit", "1"]
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            code = lm_eval_items.main([*given, "--output", f"{folder}/out.json", *extra])
        return code, out.getvalue()

    def test_equal_sides_give_0_and_a_table(self) -> None:
        code, out = self.run_script()
        self.assertEqual(code, 0)
        self.assertEqual(out.splitlines()[2].split(), "piqa 1 2 5.00e-04 1.00e-03 0 acc 1.0000 1.0000 yes".split())
        self.assertTrue(json.loads((self.folder / "out.json").read_text())["tasks"][0]["same"])

    def test_a_difference_gives_1(self) -> None:
        self.scored.side_effect = lambda task, data: self.entry(-1.5)
        self.assertEqual(self.run_script()[0], 1)
        self.assertEqual(self.run_script("--tolerance", "0.6")[0], 0)

    def test_the_reference_is_made_once_and_anew_for_other_data(self) -> None:
        reference = ("--reference", str(self.folder / "reference.json"))
        for _ in range(2):
            self.assertEqual(self.run_script(*reference)[0], 0)
        self.assertEqual(self.scored.call_count, 1)
        (self.folder / "piqa/valid.jsonl").write_text('{"goal": "b"}\n')
        self.run_script(*reference)
        self.assertEqual(self.scored.call_count, 2)

    def test_a_pdtrim_that_fails_costs_its_task_only_and_gives_1(self) -> None:
        (self.folder / "pdtrim").write_text(f"#!{sys.executable}\nraise SystemExit('error: no such task')\n")
        self.assertEqual(self.run_script()[0], 1)
        self.assertIn("no such task", json.loads((self.folder / "out.json").read_text())["failures"]["piqa"])

    def test_an_unknown_task_is_one_line(self) -> None:
        with self.assertRaises(SystemExit) as caught:
            self.run_script("--tasks", "piqa,chess")
        self.assertTrue(str(caught.exception).startswith("error: no task chess; there are piqa, "))


class Table(unittest.TestCase):
    FILE = {
        "results": {"piqa": {"alias": "piqa", "acc,none": 0.5, "acc_stderr,none": "N/A"}},
        "group_subtasks": {},
        "configs": {"piqa": {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}]}},
        "versions": {"piqa": 1},
        "n-shot": {"piqa": 0},
        "higher_is_better": {"piqa": {"acc": True}},
        "n-samples": {"piqa": {"original": 2, "effective": 1}},
        "config": {"model": "pdtrim", "model_args": ""},
        "model_source": "pdtrim",
        "model_name": "m",
        "model_name_sanitized": "m",
    }

    def missing(self, results: dict) -> list[str]:
        return list(lm_eval_table.missing(results, frozenset({"alias"}), frozenset({"original", "effective"})))

    def test_a_whole_file_misses_nothing(self) -> None:
        self.assertEqual(self.missing(self.FILE), [])

    def test_a_group_needs_its_scores_only(self) -> None:
        groups = {"group_subtasks": {"all": ["piqa"]}, "results": {**self.FILE["results"], "all": {"acc,none": 0.5}}}
        self.assertEqual(self.missing({**self.FILE, **groups}), [])

    def test_what_is_missing_is_named(self) -> None:
        for key in set(self.FILE) - {"results"}:
            self.assertIn(key, self.missing({name: value for name, value in self.FILE.items() if name != key}))
        bare = {**self.FILE, "results": {"piqa": {"acc,none": 0.5}}}
        self.assertEqual(self.missing(bare), ["results.piqa.alias", "results.piqa.acc_stderr,none"])
        other = {**self.FILE, "results": {"piqa": {"f1,none": 1.0}}}
        self.assertIn("configs.piqa.metric_list has no f1", self.missing(other))


class TaskFiles(unittest.TestCase):
    def test_a_function_of_lm_eval_is_the_same_by_either_name(self) -> None:
        shipped = "/somewhere/lm_eval/tasks/hellaswag/utils.process_docs"
        ours = "/elsewhere/lm_eval_tasks/lm_eval.tasks.hellaswag.utils.process_docs"
        self.assertTrue(lm_eval_harness.same_setting(ours, shipped))
        self.assertFalse(lm_eval_harness.same_setting(ours.replace("hellaswag", "swag"), shipped))
        self.assertFalse(lm_eval_harness.same_setting("a", "b"))
        self.assertTrue(lm_eval_harness.same_setting(["no", "yes"], ["no", "yes"]))


if __name__ == "__main__":
    unittest.main()
