//! The front of bytes against loss, on a small seeded model.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pdtrim_core::journal::Journal;
use pdtrim_core::objective::{Calibration, CalibrationLoss, Rows};
use pdtrim_core::pipeline::PdModel;
use pdtrim_core::testing::TinyModel;
use pdtrim_core::{BlockKv, BlockSet, Boundary, KvEncoding, KvFill, KvPlan, PerStage, TokenSpan};
use pdtrim_kv::{
    Error, Front, FrontSearch, Goal, KvEvaluation, KvJournal, KvSizes, PlannedTransfer,
};

const DEPTH: usize = 5;
const PROMPT: usize = 40;

fn windows() -> Calibration {
    let window = |n: u32| (0..48).map(|m| (m * m + 7 * n + 1) % 96).collect();
    Calibration::new((0..3).map(window).collect(), PROMPT).unwrap()
}

fn menu() -> Vec<BlockKv> {
    let positions = [(None, 0), (Some(18), 0), (Some(9), 9), (Some(6), 0)];
    let encodings = [KvEncoding::Bf16, KvEncoding::Int8, KvEncoding::Int4];
    let choice = |(last, heavy): (Option<usize>, usize), encoding| BlockKv {
        span: last.map(|last| TokenSpan { first: 2, last }),
        heavy,
        encoding,
    };
    positions
        .iter()
        .flat_map(|&positions| encodings.map(|encoding| choice(positions, encoding)))
        .collect()
}

fn removed() -> PerStage<BlockSet> {
    PerStage {
        prefill: BlockSet::empty(DEPTH),
        decode: BlockSet::from_indices(DEPTH, [2]).unwrap(),
    }
}

fn front(factors: &[f64], journal: Option<KvJournal>) -> Result<Front, Error> {
    front_within(factors, None, journal)
}

fn front_within(
    factors: &[f64],
    max_rise: Option<f64>,
    journal: Option<KvJournal>,
) -> Result<Front, Error> {
    let model = TinyModel::default().build();
    let calibration = windows();
    let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Decode);
    let sizes = KvSizes::new(&model, vec![PROMPT - 1; 3]).unwrap();
    let search = FrontSearch {
        loss: &loss,
        removed: &removed(),
        sizes: &sizes,
        menu: &menu(),
        factors,
        max_rise,
        rounds: 2,
        firsts: &[0, 1, 4],
        heavies: &[0.25, 0.75],
    };
    let mut measured = 0;
    let known = journal.as_ref().map_or(0, |(_, known)| known.len());
    let found = search.run(journal, &mut |_| measured += 1);
    if let Ok(front) = &found {
        assert_eq!(front.trace.len(), known + measured);
        assert!(known + measured <= search.planned_evaluations());
    }
    found
}

#[test]
fn every_point_takes_no_more_bytes_than_asked_and_the_wire_agrees() {
    let model = TinyModel::default().build();
    let factors = [1.5, 2.5, 4.0, 8.0];
    let front = front(&factors, None).unwrap();
    let calibration = windows();
    for (point, asked) in front.points.iter().zip(factors) {
        assert!(point.factor >= asked, "{} of {asked}", point.factor);
        let transfer = PlannedTransfer::new(point.plan.clone());
        let pd = PdModel::new(
            &model,
            removed(),
            KvFill::Nested,
            Boundary::Decode,
            &transfer,
        );
        let window = &calibration.windows()[0];
        let scores = pd
            .unwrap()
            .score(&window[..PROMPT], &[&window[PROMPT..]])
            .unwrap();
        // All prompts have one length, so that the mean is what each takes.
        assert!((scores.kv_bytes.0 as f64 - point.bytes).abs() < 1e-6);
    }
    let bytes: Vec<f64> = front.points.iter().map(|point| point.bytes).collect();
    assert!(bytes.is_sorted_by(|a, b| a >= b), "{bytes:?}");
}

#[test]
fn for_a_rise_of_the_loss_the_fewest_bytes_are_found_and_more_for_more_of_it() {
    let factors = [1.5, 4.0, 8.0];
    let plain = front(&factors, None).unwrap();
    let mut before = 0.0;
    for rise in [0.0005, 0.005, 0.05] {
        let found = front_within(&factors, Some(rise), None).unwrap();
        assert_eq!(found.points[..3], plain.points[..]);
        let Some(point) = found.points.get(3) else {
            continue;
        };
        assert_eq!(point.goal, Goal::Rise(rise));
        assert!(point.cost - found.base_cost <= rise);
        let within = plain
            .points
            .iter()
            .filter(|p| p.cost - found.base_cost <= rise);
        assert!(within.clone().all(|other| other.factor <= point.factor));
        assert!(
            point.factor >= before,
            "{rise}: {} after {before}",
            point.factor
        );
        before = point.factor;
    }
    assert!(before > 1.0, "a rise of 0.05 is room for something");
}

#[test]
fn no_uniform_plan_of_as_many_bytes_costs_less() {
    let model = TinyModel::default().build();
    let calibration = windows();
    let loss = CalibrationLoss::new(&model, &calibration, Rows::Continuation, Boundary::Decode);
    let sizes = KvSizes::new(&model, vec![PROMPT - 1; 3]).unwrap();
    let removed = removed();
    for sends in &menu()[1..] {
        let kept = removed.decode.complement();
        let uniform = kept.iter().fold(KvPlan::send_all(DEPTH), |plan, id| {
            plan.with_block(id, *sends)
        });
        let factor = sizes.dense_bf16_bytes() / sizes.plan_bytes(&uniform, &removed.decode);
        let cost = loss
            .cost_with(&removed, &PlannedTransfer::new(uniform))
            .unwrap();
        let found = front(&[factor * 0.9999], None).unwrap();
        assert!(
            found.points[0].cost <= cost + 1e-3,
            "{sends:?}: {} above {cost}",
            found.points[0].cost
        );
    }
}

fn sorted(mut trace: Vec<KvEvaluation>) -> Vec<KvEvaluation> {
    trace.sort_by(|a, b| a.kv.cmp(&b.kv));
    trace
}

#[test]
fn a_front_cut_short_and_resumed_is_the_same() {
    let whole = front(&[2.0, 5.0], None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front.jsonl");
    for cut in [0, 1, 7, whole.trace.len()] {
        let (mut journal, _) = Journal::resume(&path, &format!("cut {cut}")).unwrap();
        for evaluation in &whole.trace[..cut] {
            journal.append(evaluation).unwrap();
        }
        drop(journal);
        let journal = Journal::resume(&path, &format!("cut {cut}")).unwrap();
        let resumed = front(&[2.0, 5.0], Some(journal)).unwrap();
        assert_eq!(resumed.points, whole.points, "cut {cut}");
        // Plans of one call finish in any order.
        assert!(
            sorted(resumed.trace) == sorted(whole.trace.clone()),
            "cut {cut}"
        );
    }
}

#[test]
fn more_than_the_menu_allows_is_refused_with_the_most_that_it_does() {
    match front(&[2.0, 1000.0], None) {
        Err(Error::FrontUnreachable { found, most }) => {
            assert!((found - 1000.0).abs() < 1e-9);
            assert!(most > 8.0 && most < 1000.0, "{most}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        front(&[f64::NAN], None),
        Err(Error::FrontUnreachable { .. })
    ));
}
