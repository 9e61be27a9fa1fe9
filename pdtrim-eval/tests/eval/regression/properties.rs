//! What holds of any run.

use std::path::Path;

use pdtrim_eval::regression::{Baseline, Gate, Status, compare};
use pdtrim_eval::{EvalReport, MetricName};
use proptest::prelude::*;

use super::{check, choices, gate, limits, report, windows};

/// A task of each kind with any outcome.
fn any_report() -> impl Strategy<Value = EvalReport> {
    let hits = proptest::collection::vec(any::<(bool, bool)>(), 1..20);
    let losses = proptest::collection::vec((0.0..1e6_f64, 1..1000_usize), 1..20);
    (hits, losses).prop_map(|(hits, losses)| {
        let digit = |hit| if hit { '1' } else { '0' };
        let accs: String = hits.iter().map(|hit| digit(hit.0)).collect();
        let norms: String = hits.iter().map(|hit| digit(hit.1)).collect();
        // So that the perplexity is finite: at most e^100.
        let losses: Vec<(f64, usize)> = losses
            .into_iter()
            .map(|(loss, tokens)| (loss / 1e4 * tokens as f64, tokens))
            .collect();
        report([choices("toy", &accs, &norms), windows("text", &losses)])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_run_passes_against_itself_without_any_drop(report in any_report()) {
        let baseline = Baseline::of(&report).unwrap();
        let limits = limits(&["acc=0", "acc_norm=0%", "perplexity=0"]);
        let gate = compare(&report, &baseline, &limits, 1.0).unwrap();
        prop_assert!(gate.passed());
        for check in gate.checks {
            prop_assert_eq!(check.status, Status::Ok);
            let paired = check.paired.unwrap();
            prop_assert_eq!((paired.drop.to_bits(), paired.p), (0, 1.0));
        }
    }

    #[test]
    fn a_baselines_text_reads_back_to_equal_bytes(report in any_report()) {
        let baseline = Baseline::of(&report).unwrap();
        let text = baseline.to_json();
        let read = Baseline::parse(&text, Path::new("b.json")).unwrap();
        prop_assert_eq!(read.to_json(), text);
        prop_assert_eq!(read, baseline);
    }

    #[test]
    fn what_is_lost_one_way_is_won_the_other(old in "[01]{12}", new in "[01]{12}") {
        let there = gate(choices("toy", &old, &old), choices("toy", &new, &new), "acc=1");
        let back = gate(choices("toy", &new, &new), choices("toy", &old, &old), "acc=1");
        let drop = |gate: &Gate| check(gate, MetricName::Acc).paired.unwrap().drop;
        prop_assert_eq!(drop(&there).to_bits(), (0.0 - drop(&back)).to_bits());
    }
}
