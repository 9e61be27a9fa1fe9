//! Parity with the reference numbers where the KV cache is trimmed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../pdtrim-core/tests/support/reference.rs"]
mod reference;

use pdtrim_core::model::BlockModel;
use pdtrim_core::pipeline::PdModel;
use pdtrim_core::{BlockSet, Boundary, KvFill, KvPlan, PerStage, TokenSpan};
use pdtrim_kv::PlannedTransfer;
use reference::{ids, indices, numbers, reference};

#[test]
fn kv_trim_cases_have_the_references_log_probabilities() {
    let Some(reference) = reference() else { return };
    let depth = reference.model.dims().n_blocks;
    let text = reference.text_tokens("wiki.test.raw");
    for span in reference.golden["pd"]["spans"].as_array().unwrap() {
        let prompt = &text[..span["context_tokens"].as_u64().unwrap() as usize];
        let continuation = ids(&span["continuation"]);
        for (name, case) in span["cases"].as_object().unwrap() {
            let args = &case["args"];
            if args["trim_layers"].is_null() {
                continue;
            }
            let set = |key: &str| BlockSet::from_indices(depth, indices(&args[key])).unwrap();
            let removed = PerStage {
                prefill: set("P"),
                decode: set("D"),
            };
            let size = |key: &str| args[key].as_u64().unwrap() as usize;
            let kept = TokenSpan {
                first: size("first"),
                last: size("last"),
            };
            let transfer = PlannedTransfer::new(KvPlan::uniform(&set("trim_layers"), kept));
            for boundary in [Boundary::Prefill, Boundary::Decode] {
                let pd = PdModel::new(
                    &reference.model,
                    removed.clone(),
                    KvFill::Nested,
                    boundary,
                    &transfer,
                )
                .unwrap();
                let scores = pd.score(prompt, &[&continuation]).unwrap();
                let expected = &case[boundary.to_string()];
                let sum = scores.continuations[0].sum();
                assert!(
                    (sum - expected["sum"].as_f64().unwrap()).abs() < 0.01,
                    "{name}: {sum}"
                );
                for (score, expected) in scores.continuations[0]
                    .tokens
                    .iter()
                    .zip(numbers(&expected["logprobs"]))
                {
                    assert!(
                        (f64::from(score.logprob) - expected).abs() < 1.5e-3,
                        "{name}, boundary {boundary}"
                    );
                }
                // 2 (keys and values) x 3 heads x 64 x 4 bytes for each position of each block that decode runs.
                let read = if boundary == Boundary::Prefill {
                    prompt.len()
                } else {
                    prompt.len() - 1
                };
                let positions = |id| transfer.plan().positions_sent(id, read);
                let crossed: usize = removed.decode.complement().iter().map(positions).sum();
                assert_eq!(
                    scores.kv_bytes.0,
                    (crossed * 2 * 3 * 64 * 4) as u64,
                    "{name}"
                );
                assert!(scores.trimmed);
            }
            let pd = PdModel::new(
                &reference.model,
                removed,
                KvFill::Nested,
                Boundary::Prefill,
                &transfer,
            )
            .unwrap();
            assert_eq!(
                pd.generate_greedy(prompt, 16, &[], |_| {}).unwrap().tokens,
                ids(&case["greedy16"]),
                "{name}"
            );
        }
    }
}
