//! Ridge regression by its normal equations, in f64.
//!
//! A Cholesky factorisation is all that is needed of linear algebra here; the crates that have one bring
//! decompositions, sparse matrices and minutes of compiling with it.

use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Rows whose products are summed in f32 before they are added in f64.
const BLOCK_ROWS: usize = 512;

/// Sums over rows of `x xᵀ` and `r xᵀ`, for inputs x and targets r of `width` elements.
pub(super) struct NormalEquations {
    width: usize,
    /// `[width, width]`.
    gram: Vec<f64>,
    /// `[width, width]`, a row for each element of the targets.
    cross: Vec<f64>,
}

impl NormalEquations {
    pub(super) fn new(width: usize) -> Self {
        let zeros = vec![0.0; width * width];
        Self {
            width,
            gram: zeros.clone(),
            cross: zeros,
        }
    }

    /// Adds rows `[rows, width]`.
    pub(super) fn add(&mut self, inputs: &Tensor<2>, targets: &Tensor<2>) {
        let rows = inputs.dims()[0];
        for first in (0..rows).step_by(BLOCK_ROWS) {
            let part = |all: &Tensor<2>| {
                let part = all.clone().narrow(0, first, BLOCK_ROWS.min(rows - first));
                Tensor::<2>::cast(part, DType::F32)
            };
            let (inputs, targets) = (part(inputs), part(targets));
            add(
                &mut self.gram,
                inputs.clone().transpose().matmul(inputs.clone()),
            );
            add(&mut self.cross, targets.transpose().matmul(inputs));
        }
    }

    /// The matrix D `[width, width]` that minimises `Σ |r - D x|² + λ |D|²`, with λ = `ridge` times the
    /// mean diagonal element of `Σ x xᵀ`.
    ///
    /// # Errors
    ///
    /// [`Error::NoRepair`] if the inputs do not determine it.
    pub(super) fn solve(mut self, ridge: f64) -> Result<Vec<f64>> {
        let width = self.width;
        let diagonal = || (0..width).map(|n| n * width + n);
        let mean = diagonal().map(|at| self.gram[at]).sum::<f64>() / width as f64;
        for at in diagonal() {
            self.gram[at] += ridge * mean;
        }
        if !factor(&mut self.gram, width) {
            return Err(Error::NoRepair { ridge });
        }
        let factor = &self.gram;
        let rows = self.cross.par_chunks_exact_mut(width);
        rows.for_each(|row| substitute(factor, row));
        Ok(self.cross)
    }
}

fn add(sums: &mut [f64], products: Tensor<2>) {
    let products = products.into_data();
    let products = products.as_slice::<f32>().expect("products of f32");
    for (sum, product) in sums.iter_mut().zip(products) {
        *sum += f64::from(*product);
    }
}

/// Overwrites the lower triangle of a symmetric `matrix` with its Cholesky factor L, `L Lᵀ = matrix`;
/// says whether there is one.
fn factor(matrix: &mut [f64], width: usize) -> bool {
    for row in 0..width {
        let (above, rest) = matrix.split_at_mut(row * width);
        let own = &mut rest[..width];
        for (column, other) in above.chunks_exact(width).enumerate() {
            let rest = own[column] - dot(&own[..column], &other[..column]);
            own[column] = rest / other[column];
        }
        let square = own[row] - dot(&own[..row], &own[..row]);
        // Written so that NaN is refused too.
        if !(square > 0.0 && square.is_finite()) {
            return false;
        }
        own[row] = square.sqrt();
    }
    true
}

/// Solves `L Lᵀ x = right` in place.
fn substitute(factor: &[f64], right: &mut [f64]) {
    let width = right.len();
    for row in 0..width {
        let own = &factor[row * width..][..=row];
        right[row] = (right[row] - dot(&own[..row], &right[..row])) / own[row];
    }
    for row in (0..width).rev() {
        let own = &factor[row * width..][..=row];
        let value = right[row] / own[row];
        right[row] = value;
        for (right, own) in right[..row].iter_mut().zip(own) {
            *right -= own * value;
        }
    }
}

/// Eight sums side by side: one would wait for itself at every step.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (chunks, others) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = chunks.remainder().iter().zip(others.remainder());
    let rest: f64 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in chunks.zip(others) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use pdtrim_core::draw::uniform;

    fn drawn(rows: usize, width: usize, mut state: u64) -> Tensor<2> {
        let draw = |_| (uniform(&mut state) - 0.5) as f32;
        let values: Vec<f32> = (0..rows * width).map(draw).collect();
        Tensor::from_data(TensorData::new(values, [rows, width]), &Device::flex())
    }

    fn solved(inputs: &Tensor<2>, targets: &Tensor<2>, ridge: f64) -> Result<Vec<f64>> {
        let mut equations = NormalEquations::new(inputs.dims()[1]);
        equations.add(inputs, targets);
        equations.solve(ridge)
    }

    #[test]
    fn a_linear_relation_is_found_over_more_rows_than_a_block() {
        let (inputs, matrix) = (drawn(1300, 11, 1), drawn(11, 11, 2));
        let targets = inputs.clone().matmul(matrix.clone().transpose());
        let found = solved(&inputs, &targets, 0.0).unwrap();
        let expected = matrix.into_data();
        for (found, expected) in found.iter().zip(expected.as_slice::<f32>().unwrap()) {
            assert!(
                (found - f64::from(*expected)).abs() < 1e-5,
                "{found}, {expected}"
            );
        }
    }

    #[test]
    fn one_input_is_shrunk_as_worked_by_hand() {
        // Σ x² = 5, Σ r x = 10; λ = 0.6 * 5 = 3: D = 10 / 8.
        let column =
            |values: [f32; 2]| Tensor::<2>::from_data([[values[0]], [values[1]]], &Device::flex());
        let found = solved(&column([1.0, 2.0]), &column([2.0, 4.0]), 0.6).unwrap();
        assert!((found[0] - 1.25).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn inputs_that_determine_nothing_are_refused_without_a_ridge() {
        let inputs = drawn(3, 5, 4);
        assert!(matches!(
            solved(&inputs, &inputs, 0.0),
            Err(Error::NoRepair { .. })
        ));
        assert!(solved(&inputs, &inputs, 1e-3).is_ok());
        let broken = inputs.mul_scalar(f32::NAN);
        assert!(matches!(
            solved(&broken, &broken, 1.0),
            Err(Error::NoRepair { .. })
        ));
    }
}
