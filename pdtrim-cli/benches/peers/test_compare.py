"""compare.py with made-up peers and a made-up pdtrim: needs neither torch nor llama.cpp nor a build of ours.

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
from unittest import mock

import compare
import make_gguf
import peer_io
import sleb_torch
import worker_pool
import workloads

PREAMBLE = f"""#!{sys.executable}
import json, sys
from pathlib import Path
HERE = Path(__file__).resolve().parent
def log(line):
    with open(HERE / "log", "a") as file:
        print(line, file=file)
"""

# Each sample is slower than the one before it, so that pairs differ.
FAKE_PDTRIM = (
    PREAMBLE
    + """
log("ours " + " ".join(sys.argv[1:3]))
(HERE / "args").write_text(json.dumps(sys.argv[1:]))
if "generate" in sys.argv:
    sys.exit()
if "eval" in sys.argv:
    given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
    log("goals " + "".join(json.loads(line)["goal"] for line in open(Path(given["--data"]) / "piqa/valid.jsonl")))
    Path(given["--items"]).write_text("")
    print(json.dumps({"results": {"piqa": {"acc,none": 0.5}}}))
    sys.exit()
if "perplexity" in sys.argv:
    sys.exit("error: no such work")
count = (HERE / "log").read_text().count("ours")
print(json.dumps({"samples": [float(count)]}))
"""
)

FAKE_WORKER = (
    PREAMBLE
    + """
print("a library talks")
log("start " + Path(__file__).name)
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    log("peer " + request["work"])
    if request["work"] == "decode":
        sys.exit("error: out of memory")
    if request["work"] == "perplexity":
        print(json.dumps({"error": "not today"}), flush=True)
        continue
    print(json.dumps({"seconds": 12.0, "samples": [12.0]}), flush=True)
"""
)


# Fastest with batches of 4; the accuracy of its second slice is not ours.
FAKE_LM_EVAL = (
    PREAMBLE
    + """
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    log("peer {first}+{limit} by {batch}".format(**request))
    seconds = 8.0 / request["batch"] if request["batch"] <= 4 else 3.0
    print(json.dumps({"seconds": seconds, "acc": 0.25 if request["first"] else 0.5}), flush=True)
"""
)


class Bench(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for name, text in (("pdtrim", FAKE_PDTRIM), ("worker_transformers.py", FAKE_WORKER), ("config.json", "{}")):
            (self.folder / name).write_text(text)
        (self.folder / "worker_llama_cpp.py").write_text(FAKE_WORKER)
        (self.folder / "worker_lm_eval.py").write_text(FAKE_LM_EVAL)
        (self.folder / "pdtrim").chmod(stat.S_IRWXU)
        patch = mock.patch.object(worker_pool, "HERE", self.folder)
        patch.start()
        self.addCleanup(patch.stop)

    def compare(self, *extra: str, only: str = "prefill-512") -> tuple[int, str, str]:
        folder = str(self.folder)
        given = ["--pdtrim", f"{folder}/pdtrim", "--model", folder, "--gguf", folder, "--pause", "0", "--only", only]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = compare.main([*given, "--output", f"{folder}/out.json", *extra])
        return code, out.getvalue(), err.getvalue()

    def log(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def written(self) -> dict:
        return json.loads((self.folder / "out.json").read_text())

    def test_sides_take_turns_and_the_first_one_alternates(self) -> None:
        self.assertEqual(self.compare("--pairs", "3")[0], 0)
        ours, peer = "ours bench prefill", "peer prefill"
        start = ["start worker_transformers.py", peer]  # and the warm-up
        self.assertEqual(self.log(), [*start, ours, peer, peer, ours, ours, peer])
        self.assertEqual(self.written()["results"][0]["order"], ["ours", "peer", "peer", "ours", "ours", "peer"])

    def test_a_ratio_is_made_in_each_pair_and_the_median_is_taken_of_these(self) -> None:
        _, out, _ = self.compare("--pairs", "3")  # ours 1, 2, 3 s; the peer 12 s each time
        result = self.written()["results"][0]
        self.assertEqual(result["speedups"], [12.0, 6.0, 4.0])
        self.assertEqual((result["speedup"], result["speedup_lowest"], result["speedup_highest"]), (6.0, 4.0, 12.0))
        self.assertEqual((result["our_median_seconds"], result["peer_median_seconds"]), (2.0, 12.0))
        self.assertEqual([sample["seconds"] for sample in result["our_samples"]], [1.0, 2.0, 3.0])
        row = next(line for line in out.splitlines() if line.startswith("prefill-512"))
        self.assertEqual(row.split(), "prefill-512 transformers f32 2.00 s 12.00 s 6.00x 4.00-12.00 3".split())

    def test_workers_stay_alive_from_one_workload_to_the_next(self) -> None:
        self.compare("--pairs", "1", only="prefill-512,prefill-2048,llama-prefill-512-f16")
        starts = [line for line in self.log() if line.startswith("start")]
        self.assertEqual(starts, ["start worker_transformers.py", "start worker_llama_cpp.py"])
        self.assertEqual(len(self.written()["results"]), 3)

    def test_our_side_gets_the_documented_flags(self) -> None:
        self.compare("--pairs", "1", only="prefill-512-bf16")
        given = json.loads((self.folder / "args").read_text())
        flags = "--dtype bf16 --device cpu --tokens 512 --batch 1 --warmup 1 --repeats 1 --json".split()
        self.assertEqual(given, ["bench", "prefill", "--model", str(self.folder), *flags])

    def test_a_failing_peer_costs_its_own_workload_only(self) -> None:
        code, out, err = self.compare("--pairs", "1", only="decode-512,perplexity-8192,llama-prefill-512-f32")
        self.assertEqual(code, 1)
        self.assertIn("llama-prefill-512-f32", out)
        self.assertIn("error: decode-512: worker_transformers.py ended: out of memory", err)
        failures = self.written()["failures"]
        self.assertEqual(sorted(failures), ["decode-512", "perplexity-8192"])

    def test_a_dead_worker_is_started_anew(self) -> None:
        code, out, _ = self.compare("--pairs", "1", only="decode-512,prefill-512")
        self.assertEqual(code, 1)
        self.assertIn("prefill-512", out)

    def test_load_is_held_against_a_plain_read_of_the_weights(self) -> None:
        (self.folder / "model.safetensors").write_bytes(b"0" * (2 * workloads.READ_BUFFER + 7))
        self.assertEqual(self.compare("--pairs", "1", only="load")[0], 0)
        self.assertEqual(self.written()["results"][0]["peer_samples"][0]["bytes"], 2 * workloads.READ_BUFFER + 7)

    def lm_eval(self, *extra: str) -> str:
        (self.folder / "piqa").mkdir()
        (self.folder / "piqa/valid.jsonl").write_text("".join(f'{{"goal": "{letter}"}}\n' for letter in "abcdef"))
        (self.folder / "piqa/valid-labels.lst").write_text("0\n" * 6)
        sizes = ["--lm-eval-items", "6", "--lm-eval-slice", "2", "--lm-eval-batches", "1,4,8"]
        code, out, _ = self.compare("--data", str(self.folder), *sizes, *extra, only="lm-eval-piqa")
        self.assertEqual(code, 0)
        return out

    def test_lm_eval_runs_in_full_at_its_best_batch_size_and_then_in_slices(self) -> None:
        self.lm_eval()
        peer = [line for line in self.log() if line.startswith("peer")]
        tried = ["peer 0+2 by 1", "peer 0+2 by 1", "peer 0+2 by 4", "peer 0+2 by 8"]
        self.assertEqual(peer, [*tried, "peer 0+6 by 4", "peer 0+2 by 4", "peer 2+2 by 4", "peer 4+2 by 4"])
        warm_up = self.written()["results"][0]["warm_up"]
        self.assertEqual((warm_up["batch"], warm_up["batches"]["4"], warm_up["peer"]["seconds"]), (4, 2.0, 2.0))

    def test_both_sides_get_the_same_slices(self) -> None:
        out = self.lm_eval("--pairs", "2")
        goals = [line for line in self.log() if line.startswith("goals")]
        self.assertEqual(goals[2:], ["goals ab", "goals cd"])  # after one item and all of them, from the whole file
        self.assertIn("lm-eval-piqa: NOT THE SAME: acc 0.5 and 0.25", out)

    def test_an_unknown_workload_or_a_missing_folder_is_one_line(self) -> None:
        with self.assertRaises(SystemExit) as caught:
            self.compare(only="prefill-7")
        self.assertTrue(str(caught.exception).startswith("error: no workload prefill-7; there are prefill-512, "))
        with self.assertRaises(SystemExit) as caught:
            self.compare("--model", str(self.folder / "none"))
        self.assertEqual(len(str(caught.exception).splitlines()), 1)

    def test_a_missing_package_is_one_line(self) -> None:
        with self.assertRaises(SystemExit) as caught:
            peer_io.need("no_such_package_at_all")
        self.assertIn("pip install -r requirements.txt", str(caught.exception))


class Adapter(unittest.TestCase):
    def test_the_list_of_samples_may_stand_at_the_top_or_in_the_first_measurement(self) -> None:
        for text in ('{"samples": [0.5]}', '{"measurements": [{"samples": [0.5]}]}'):
            self.assertEqual(workloads.our_sample(text, ["bench"]), {"seconds": 0.5})

    def test_the_number_of_evaluations_of_a_search_is_kept(self) -> None:
        text = '{"measurements": [{"samples": [9]}], "evaluations": 165}'
        self.assertEqual(workloads.our_sample(text, ["bench"]), {"seconds": 9.0, "evaluations": 165})

    def test_sides_that_did_not_do_the_same_are_named(self) -> None:
        workload = workloads.Workload("sleb", "torch", dict, dict, must_agree=("evaluations",))
        sides = {"ours": [{"evaluations": 165}], "peer": [{"evaluations": 153}]}
        self.assertEqual(compare.disagreements(workload, sides), ["NOT THE SAME: evaluations 165 and 153"])
        self.assertEqual(compare.disagreements(workload, {**sides, "peer": sides["ours"]}), [])

    def test_anything_else_is_refused(self) -> None:
        for text in ("", "{}", '{"samples": []}', '{"samples": [1, 2]}', "[]"):
            with self.assertRaises(worker_pool.SideError):
                workloads.our_sample(text, ["bench"])


class Pieces(unittest.TestCase):
    def test_fixed_ids_differ_from_one_another(self) -> None:
        ids = peer_io.token_ids(10_240)
        self.assertEqual(len(set(ids)), len(ids))
        self.assertTrue(all(100 <= i < 40_100 for i in ids))

    def test_six_of_thirty_with_both_ends_protected_takes_153_evaluations(self) -> None:
        steps = sleb_torch.candidates_per_step(30, 6, at_each_end=1)
        self.assertEqual(steps, [(28, 29), (27, 28), (26, 27), (25, 26), (24, 25), (23, 24)])
        self.assertEqual(sum(candidates for candidates, _ in steps), 153)
        free = sleb_torch.candidates_per_step(30, 6, at_each_end=0)
        self.assertEqual(sum(candidates for candidates, _ in free), 165)

    def test_the_rest_of_a_search_is_extrapolated_by_blocks(self) -> None:
        # 4 blocks, 2 to remove: 2 evaluations of 3 blocks, 1 of 2; with a head worth 1 block they cost 4, 4 and 3.
        measured = [{"seconds": 8.0}, {"seconds": 8.0}]
        steps = sleb_torch.candidates_per_step(4, 2, at_each_end=1)
        self.assertEqual(sleb_torch.extrapolate(measured, steps, head=1.0), 22.0)

    def test_tensors_get_llama_cpp_names(self) -> None:
        self.assertEqual(make_gguf.gguf_name("model.layers.12.self_attn.q_proj.weight"), "blk.12.attn_q.weight")
        self.assertEqual(make_gguf.gguf_name("model.embed_tokens.weight"), "token_embd.weight")
        with self.assertRaises(SystemExit):
            make_gguf.gguf_name("model.layers.0.mlp.experts.weight")


if __name__ == "__main__":
    unittest.main()
