"""lm-evaluation-harness with a model loaded once, on the task files of `lm_eval_tasks`, offline."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from lm_eval_data import write_records
from peer_io import fail, need

TASK_FILES = Path(__file__).resolve().parent / "lm_eval_tasks"
Results = dict[str, Any]  # lm-eval's EvalResults
Tasks = dict[str, Any]  # lm-eval's TaskDict

# Where a task's items come from, what they are scanned for and how the task is listed: not what is asked and scored.
NOT_THE_TASK = frozenset(
    "tag dataset_path dataset_name dataset_kwargs training_split test_split validation_split should_decontaminate"
    " doc_to_decontamination_query".split()
)
SHIPPED_TASK_FILES = {
    "piqa": "piqa/piqa.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "winogrande": "winogrande/default.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "wikitext": "wikitext/wikitext.yaml",
    "lambada_openai": "lambada/lambada_openai.yaml",
}


class Harness:
    """The model, and the tasks that were asked for so far."""

    def __init__(self, model: Path, folder: Path, threads: int, max_length: int | None = None) -> None:
        go_offline(folder)
        need("torch").set_num_threads(threads)
        self.folder = folder
        self.lm_eval = need("lm_eval")
        load: Any = need("lm_eval.models.huggingface").HFLM
        self.model = load(pretrained=str(model), device="cpu", dtype="float32", max_length=max_length)
        self.manager = need("lm_eval.tasks").TaskManager(include_path=str(TASK_FILES), include_defaults=False)
        self.tasks: dict[tuple[str, Path], Tasks] = {}

    def load(self, name: str, data: Path) -> Tasks:
        """A task with its records, read when first asked for."""
        if (name, data) not in self.tasks:
            check_task_file(name)
            write_records(data, self.folder, [name])
            with contextlib.chdir(self.folder):  # the task files name their records by paths relative to it
                self.tasks[name, data] = self.manager.load([name])
        return self.tasks[name, data]

    def evaluate(self, name: str, data: Path, limit: int, batch: int) -> Results:
        """`simple_evaluate` on the first `limit` items, with every sample and with standard errors."""
        (task,) = self.load(name, data)["tasks"].values()
        self.model.batch_size_per_gpu = batch
        return self.lm_eval.simple_evaluate(
            model=self.model, tasks=[task], task_manager=self.manager, limit=limit, log_samples=True
        )

    def score(self, name: str, data: Path, limit: int, first: int = 0, batch: int = 1) -> Results:
        """The least that gives the metrics of `limit` items from `first` on: without what `simple_evaluate` does
        around it (asking the system for its versions takes it most of a second) and without bootstrapping."""
        task = self.load(name, data)
        self.model.batch_size_per_gpu = batch
        span: dict[str, Any] = {"samples": {name: list(range(first, first + limit))}} if first else {"limit": limit}
        return self.lm_eval.evaluate(lm=self.model, task_dict=task, bootstrap_iters=0, log_samples=False, **span)


def go_offline(folder: Path) -> None:
    """What has to be in the environment before lm-eval and torch are imported."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_CACHE=str(folder / "cache"))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see worker_transformers.py


def check_task_file(task: str) -> None:
    """Fails where our task file asks or scores other than the one lm-eval ships."""
    load_yaml = need("lm_eval.tasks._yaml_loader").load_yaml
    shipped_folder = Path(need("lm_eval.tasks").__file__).parent
    ours = load_yaml(TASK_FILES / f"{task}.yaml", resolve_func=False)
    shipped = load_yaml(shipped_folder / SHIPPED_TASK_FILES[task], resolve_func=False)
    for key in (ours.keys() | shipped.keys()) - NOT_THE_TASK:
        if not same_setting(ours.get(key), shipped.get(key)):
            fail(f"task file {task}.yaml has {key} {ours.get(key)!r}, lm-eval's own has {shipped.get(key)!r}")


def same_setting(ours: Any, shipped: Any) -> bool:
    """Equal, or the same function of lm-eval's, which its own file finds beside it and ours by its module's name."""
    if ours == shipped or not isinstance(ours, str) or not isinstance(shipped, str):
        return ours == shipped
    module = shipped.rpartition("/lm_eval/tasks/")[2].replace("/", ".")
    return ours.endswith(f"/lm_eval.tasks.{module}")
