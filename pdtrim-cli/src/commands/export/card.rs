//! The model card, `README.md` of an export.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use pdtrim_core::checkpoint::source::ModelSource;
use pdtrim_core::checkpoint::{ExportForm, Licence, StageWeights};
use pdtrim_core::plan::Repair;
use pdtrim_core::{BlockId, BlockSet, Plan, Stage};

use super::about::pair;
use super::chosen::Chosen;
use super::scores::Score;

/// All that the card is made from.
pub(super) struct Card<'c> {
    /// Name of the folder.
    pub(super) name: String,
    pub(super) plan: &'c Plan,
    pub(super) chosen: &'c Chosen,
    pub(super) form: ExportForm,
    pub(super) licence: Option<Licence>,
    pub(super) scores: Vec<Score>,
    /// Whether mergekit's recipe stands beside it.
    pub(super) has_recipe: bool,
}

impl Card<'_> {
    /// The card.
    pub(super) fn text(&self) -> String {
        let parts = [
            self.front_matter(),
            format!("# {}\n\n{}", self.name, self.summary()),
            format!("## Removed blocks\n\n{}", self.blocks()),
            format!("## Scores\n\n{}", self.scores()),
            format!("## Serving\n\n{}", self.serving()),
            format!("## Licence\n\n{}", self.licence_words()),
        ];
        parts.join("\n")
    }

    fn front_matter(&self) -> String {
        let quoted = |text: &str| serde_json::to_string(text).expect("a string can be written");
        let base = hub_id(&self.plan.file().model.name);
        let mut text = "---\n".to_owned();
        let licence = self.licence.iter().flat_map(|licence| {
            let link = licence.link.as_deref();
            [
                ("license", Some(licence.id.as_str())),
                ("license_name", licence.name.as_deref()),
                ("license_link", link),
            ]
        });
        let base = ("base_model", base.as_deref());
        for (key, value) in licence.chain([base]) {
            if let Some(value) = value {
                line(&mut text, &format!("{key}: {}", quoted(value)));
            }
        }
        text.push_str("library_name: transformers\npipeline_tag: text-generation\ntags:\n");
        for tag in ["pdtrim", "pruning", self.chosen.name, self.form.name()] {
            line(&mut text, &format!("- {tag}"));
        }
        text + "---\n"
    }

    fn summary(&self) -> String {
        let file = self.plan.file();
        let removed = &self.chosen.removed;
        let (depth, kept) = (removed.depth(), removed.complement().len());
        let stage = match self.chosen.name {
            "unified" => "both stages".to_owned(),
            name => format!("the {name} stage"),
        };
        let mut text = String::new();
        line(
            &mut text,
            &format!(
                "`{}` as {stage} of a plan for prefill/decode disaggregation runs it: {kept} of {depth} transformer \
                 blocks.\nWritten by `pdtrim export` in the form `{}`.\n",
                file.model.name,
                self.form.name()
            ),
        );
        let mut row = |what: &str, value: &str| line(&mut text, &format!("| {what} | {value} |"));
        row("what", "value");
        row("---", "---");
        row("base model", &format!("`{}`", file.model.name));
        row("hash of the base model", &format!("`{}`", file.model.hash));
        row(
            "plan (the same for both of its stages)",
            &format!("`{}`", pair(self.plan)),
        );
        row("method", &format!("`{}`, seed {}", file.method, file.seed));
        if let Some(calibration) = &file.calibration {
            let windows = format!(
                "{}, {} windows of {} tokens",
                calibration.source, calibration.windows, calibration.window_tokens
            );
            row("calibration", &windows);
        }
        row("repair", &self.repair());
        row("keys and values", &self.kv());
        text
    }

    fn repair(&self) -> String {
        let method = match self.plan.file().repair {
            Repair::Linear => "linear",
            Repair::Distill => "distill",
            Repair::None => "none",
        };
        match &self.chosen.weights {
            StageWeights::Own => "none: all weights are the base model's".to_owned(),
            StageWeights::Repaired(repair) => {
                let blocks: Vec<String> = repair.keys().map(ToString::to_string).collect();
                format!("{method}, in the blocks {}", blocks.join(", "))
            }
            StageWeights::Narrow(widths, _) => format!(
                "none; heads and MLP channels of {} blocks are zero",
                widths.values().filter(|width| !width.is_empty()).count()
            ),
        }
    }

    fn kv(&self) -> String {
        let groups = self.plan.kv().to_groups();
        if groups.is_empty() {
            return "all prompt positions of every block cross".to_owned();
        }
        format!(
            "trimmed in {} blocks (`pdtrim.kv` in config.json); stock engines send all positions",
            groups.iter().map(|group| group.blocks.len()).sum::<usize>()
        )
    }

    /// Every block that a stage does without.
    fn blocks(&self) -> String {
        let removed = self.plan.removed();
        let either: BTreeSet<BlockId> = removed
            .prefill
            .iter()
            .chain(removed.decode.iter())
            .collect();
        if either.is_empty() {
            return "None.\n".to_owned();
        }
        let word = |set: &BlockSet, id| if set.contains(id) { "removed" } else { "kept" };
        let mut text = "| block | prefill | decode |\n| --- | --- | --- |\n".to_owned();
        for id in either {
            let (prefill, decode) = (word(&removed.prefill, id), word(&removed.decode, id));
            line(&mut text, &format!("| {id} | {prefill} | {decode} |"));
        }
        text.push_str("\nBlocks are counted from 0, as in the base model.\n");
        if self.has_recipe {
            text.push_str(
                "`mergekit_config.yml` makes these weights from a Hugging Face folder of it.\n",
            );
        } else if !matches!(self.chosen.weights, StageWeights::Own) {
            text.push_str(
                "There is no `mergekit_config.yml`: a merge of the base's layers cannot make these weights.\n",
            );
        }
        text
    }

    fn scores(&self) -> String {
        let has = |mode: &&str| self.scores.iter().any(|score| score.mode == *mode);
        let modes: Vec<&str> = ["dense", "unified", "pd", "pd+kv"]
            .into_iter()
            .filter(has)
            .collect();
        if modes.is_empty() {
            return "None stand beside the plan.\n".to_owned();
        }
        let mut text = "Scores of the whole plan with their standard errors, not of this folder alone: `dense` is the \
             base model, `unified` one\nmachine with decode's blocks, `pd` each stage with its own, `pd+kv` with the \
             trimmed keys and values too.\n\n"
            .to_owned();
        line(
            &mut text,
            &format!(
                "| task | items | metric | boundary | {} |",
                modes.join(" | ")
            ),
        );
        line(&mut text, &format!("|{}", " --- |".repeat(4 + modes.len())));
        for (row, boundary) in self.score_rows() {
            let cells: Vec<String> = modes
                .iter()
                .map(|mode| self.cell(row, boundary, mode))
                .collect();
            line(
                &mut text,
                &format!(
                    "| {} | {} | {} | {} | {} |",
                    row.task,
                    row.items,
                    row.metric,
                    boundary.unwrap_or(""),
                    cells.join(" | ")
                ),
            );
        }
        text
    }

    /// A row for each metric of each task with each boundary; with none where no mode of it has one.
    fn score_rows(&self) -> Vec<(&Score, Option<&str>)> {
        let (with, without): (Vec<&Score>, Vec<&Score>) = self
            .scores
            .iter()
            .partition(|score| score.boundary.is_some());
        let mut rows: Vec<(&Score, Option<&str>)> = Vec::new();
        for score in with.into_iter().chain(without) {
            let boundary = score.boundary.as_deref();
            let known = rows.iter().any(|(row, other)| {
                (&row.task, &row.metric) == (&score.task, &score.metric)
                    && (boundary.is_none() || *other == boundary)
            });
            if !known {
                rows.push((score, boundary));
            }
        }
        rows
    }

    /// The value of a row in `mode`; one machine has no boundary and stands in the rows of both.
    fn cell(&self, row: &Score, boundary: Option<&str>, mode: &str) -> String {
        let found = self.scores.iter().find(|score| {
            (&score.task, &score.metric) == (&row.task, &row.metric)
                && score.mode == mode
                && (score.boundary.is_none() || score.boundary.as_deref() == boundary)
        });
        found.map_or_else(String::new, |score| match score.stderr {
            Some(stderr) => format!("{:.4} ± {stderr:.4}", score.value),
            None => format!("{:.4}", score.value),
        })
    }

    fn serving(&self) -> String {
        let name = &self.name;
        let mut text = String::new();
        match self.form {
            ExportForm::Plain | ExportForm::Identity => {
                line(&mut text, &format!("```sh\nvllm serve {name}\n```\n"));
                line(
                    &mut text,
                    &format!(
                        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\
                         model = AutoModelForCausalLM.from_pretrained(\"{name}\")\n\
                         tokenizer = AutoTokenizer.from_pretrained(\"{name}\")\n```\n"
                    ),
                );
            }
            ExportForm::NoOp => line(
                &mut text,
                &format!(
                    "```sh\nvllm serve {name} --trust-remote-code\n```\n\nThe code that is trusted is \
                     `configuration_pdtrim.py`. transformers reads the configuration only: it has no such model.\n"
                ),
            ),
        }
        if self.form == ExportForm::Identity {
            text.push_str(
                "Removed blocks are computed and add nothing: this form takes the time and memory of the base \
                 model.\n\n",
            );
        }
        text.push_str(&self.together());
        text
    }

    fn together(&self) -> String {
        let removed = self.plan.removed();
        let other = match (self.chosen.name, self.chosen.stage) {
            ("unified", _) => {
                return "The same folder serves prefill, decode, or both.\n".to_owned();
            }
            (_, Stage::Prefill) => "decode",
            (_, Stage::Decode) => "prefill",
        };
        let pair = format!(
            "By itself the folder is a model for one machine. Its pair is the {other} stage of the same plan \
             (`pdtrim.pair` in config.json).\n"
        );
        let numbers = if removed.prefill == removed.decode {
            "Both stages have the same blocks, so engines that hand over keys and values by layer number can pair \
             them.\n"
        } else {
            match self.form {
                ExportForm::Plain => {
                    "The stages differ in their blocks and this form renumbers them: a connector that hands over keys and \
                     values by layer\nnumber would mix them up. `pdtrim serve` pairs them by block, and trims as the \
                     plan says.\n"
                }
                ExportForm::NoOp | ExportForm::Identity => {
                    "In this form layers have the numbers of the base model, for a connector that hands over keys and \
                     values by layer\nname between two such folders. `pdtrim serve` pairs stages by itself, and trims as \
                     the plan says.\n"
                }
            }
        };
        pair + numbers
    }

    fn licence_words(&self) -> String {
        match &self.licence {
            Some(licence) => format!(
                "That of the base model, as its {} says: {}.\n",
                licence.found_in,
                licence.name.as_deref().unwrap_or(&licence.id)
            ),
            None => "The base model names none: nothing here says what may be done with these weights.\n"
                .to_owned(),
        }
    }
}

/// `org/name` of a model on the hub, without the revision or the file of the name that the plan has.
fn hub_id(name: &str) -> Option<String> {
    let id = match ModelSource::parse(name).ok()? {
        ModelSource::Hub(_) => name,
        ModelSource::Named(model) => model.hub?,
        ModelSource::Local(_) => return None,
    };
    let repository = id.split('@').next()?;
    let parts: Vec<&str> = repository.split('/').take(2).collect();
    Some(parts.join("/"))
}

fn line(text: &mut String, line: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_id_has_no_revision_and_no_file() {
        for (name, expected) in [
            ("no-org/no-name", Some("no-org/no-name")),
            ("no-org/no-name@main", Some("no-org/no-name")),
            ("no-org/no-name/model.gguf", Some("no-org/no-name")),
            ("./folder", None),
            ("unheard-of", None),
        ] {
            assert_eq!(hub_id(name).as_deref(), expected, "{name}");
        }
        let known = hub_id("smollm2-135m-instruct").unwrap();
        assert!(known.contains('/') && !known.contains('@'), "{known}");
    }
}
