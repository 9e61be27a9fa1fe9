//! Linear layers on the CPU backend's storage: activations f32 `[rows, in]` times weights
//! `[out, in]`, f32, bf16 or f16, read as a checkpoint holds them.
//!
//! A few rows meet the weights where they lie. More rows go through packed panels, shared out over the
//! thread pool by panel and, for many rows, by row. What follows a product (a bias, the residual stream, the
//! gate of the MLP) is done while its tile is still in the cache.
//!
//! Narrow weights meet f32 activations as f32, except bf16 ones for more than [`packed::ROUNDED_FROM`] rows on a CPU with
//! products of bf16 pairs: there the activations are rounded to bf16 too, as every engine does that
//! computes in bf16. Sums are f32 throughout.

#![expect(
    unsafe_code,
    reason = "threads write disjoint columns of one matrix, which slices cannot say"
)]

mod packed;
mod scores;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use burn::tensor::{DType, TensorData};
use burn_flex::FlexTensor;
use half::{bf16, f16};
use rayon::prelude::*;

use super::dot::Weight;
use super::rows::{contiguous, owned};
use super::simd;
use super::tile::{self, COLUMNS, DEPTH, Rows};
use super::widths::Vectors;
use packed::pack_pairs;

pub(super) use packed::Packed;
pub(super) use scores::{LogitsSeen, scored};

/// Multiply-adds below which a second thread costs more than it brings (about 10 µs of work).
pub(super) const PARALLEL_FROM: usize = 1 << 19;
/// Up to this many rows, reading weights as they lie is faster than packing them.
const FEW_ROWS: usize = 8;
/// How much longer a multiply-add takes with a weight that comes from memory.
const DOTS_FACTOR: usize = 8;
/// Rows whose tile of sums, 64 KiB, stays in the second-level cache with the panel.
const ROWS_AT_A_TIME: usize = 512;

/// A product with weights `[out, in]`, and what is added to it.
pub(super) struct Part {
    pub(super) weight: FlexTensor,
    pub(super) bias: Option<FlexTensor>,
}

/// `rows * weightᵀ + bias` for each part, all of one element type.
pub(super) fn linear(rows: &FlexTensor, parts: Vec<Part>) -> Vec<FlexTensor> {
    match parts[0].weight.dtype() {
        DType::BF16 => linear_of::<bf16>(rows, parts),
        DType::F16 => linear_of::<f16>(rows, parts),
        _ => linear_of::<f32>(rows, parts),
    }
}

/// `residual + rows * weightᵀ`.
pub(super) fn linear_add(
    rows: &FlexTensor,
    weight: &FlexTensor,
    residual: FlexTensor,
) -> FlexTensor {
    match weight.dtype() {
        DType::BF16 => linear_add_of::<bf16>(rows, weight, residual),
        DType::F16 => linear_add_of::<f16>(rows, weight, residual),
        _ => linear_add_of::<f32>(rows, weight, residual),
    }
}

/// `silu(rows * gateᵀ) * (rows * upᵀ)`.
pub(super) fn gated(rows: &FlexTensor, gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
    match gate.dtype() {
        DType::BF16 => gated_of::<bf16>(rows, gate, up),
        DType::F16 => gated_of::<f16>(rows, gate, up),
        _ => gated_of::<f32>(rows, gate, up),
    }
}

/// Elements of a contiguous tensor of any element type.
fn elements<W: Weight>(tensor: &FlexTensor) -> &[W] {
    let (start, end) = tensor
        .layout()
        .contiguous_offsets()
        .expect("made contiguous by the caller");
    &bytemuck::cast_slice(tensor.bytes())[start..end]
}

fn linear_of<W: Packed>(rows: &FlexTensor, parts: Vec<Part>) -> Vec<FlexTensor> {
    let rows = rows.to_contiguous();
    let x = Activations::new(&rows);
    let count = x.count;
    let parts: Vec<Part> = parts
        .into_iter()
        .map(|part| Part {
            weight: part.weight.to_contiguous(),
            bias: part.bias.map(|bias| bias.to_contiguous()),
        })
        .collect();
    let products: Vec<Product<'_, W>> = parts.iter().map(Product::new).collect();
    let size = |part: &Product<'_, W>| count * part.outputs;
    let mut outs: Vec<Vec<f32>> = products
        .iter()
        .map(|part| Vec::with_capacity(size(part)))
        .collect();
    let targets: Vec<Matrix<'_, MaybeUninit<f32>>> = products
        .iter()
        .zip(&mut outs)
        .map(|(part, out)| Matrix::new(&mut out.spare_capacity_mut()[..size(part)], part.outputs))
        .collect();
    x.products(&products, |place, sums| {
        let bias = products[place.product].bias;
        for (row, sums) in sums.rows(place.first_row) {
            // SAFETY: `products` gives each place to one thread, and a row of it once.
            let out = unsafe { targets[place.product].write(row, place.first, place.width) };
            match bias {
                Some(bias) => {
                    let bias = &bias[place.first..][..place.width];
                    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                        out.write(sum + bias);
                    }
                }
                None => {
                    out.write_copy_of_slice(&sums[..place.width]);
                }
            }
        }
    });
    for (part, out) in products.iter().zip(&mut outs) {
        // SAFETY: the capacity was asked for above, and `products` has had every element written.
        unsafe { out.set_len(size(part)) };
    }
    outs.into_iter()
        .zip(&products)
        .map(|(out, part)| FlexTensor::from_data(TensorData::new(out, [count, part.outputs])))
        .collect()
}

fn linear_add_of<W: Packed>(
    rows: &FlexTensor,
    weight: &FlexTensor,
    residual: FlexTensor,
) -> FlexTensor {
    let (rows, weight) = (rows.to_contiguous(), weight.to_contiguous());
    let mut residual = owned(residual);
    let x = Activations::new(&rows);
    let count = x.count;
    let product = Product::<W>::of(&weight, None);
    let outputs = product.outputs;
    let out = residual.storage_mut::<f32>();
    assert_eq!(out.len(), count * outputs, "a residual for each output");
    let target = Matrix::new(out, outputs);
    x.products(&[product], |place, sums| {
        for (row, sums) in sums.rows(place.first_row) {
            // SAFETY: `products` gives each place to one thread.
            let out = unsafe { target.write(row, place.first, place.width) };
            for (out, sum) in out.iter_mut().zip(sums) {
                *out += sum;
            }
        }
    });
    residual
}

fn gated_of<W: Packed>(rows: &FlexTensor, gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
    let [rows, gate, up] = [rows, gate, up].map(FlexTensor::to_contiguous);
    let x = Activations::new(&rows);
    let count = x.count;
    let (gate, up) = (Product::<W>::of(&gate, None), Product::<W>::of(&up, None));
    let outputs = gate.outputs;
    let mut out: Vec<f32> = Vec::with_capacity(count * outputs);
    let spare = &mut out.spare_capacity_mut()[..count * outputs];
    let target = Matrix::new(spare, outputs);
    let both = Product::<W>::side_by_side(&gate, &up);
    x.products(&[both], |place, mut sums| {
        sums.gate();
        for (row, sums) in sums.rows(place.first_row) {
            // SAFETY: `products` gives each place to one thread.
            let out = unsafe { target.write(row, place.first, place.width) };
            out.write_copy_of_slice(&sums[..place.width]);
        }
    });
    // SAFETY: the capacity was asked for above, and `products` has had every element written.
    unsafe { out.set_len(count * outputs) };
    FlexTensor::from_data(TensorData::new(out, [count, outputs]))
}

/// Weights of one layer, and for the gate of an MLP those that are packed beside them.
struct Product<'a, W> {
    weights: &'a [W],
    beside: Option<&'a [W]>,
    bias: Option<&'a [f32]>,
    outputs: usize,
    inputs: usize,
}

impl<'a, W: Packed> Product<'a, W> {
    fn new(part: &'a Part) -> Self {
        Self::of(&part.weight, part.bias.as_ref().map(contiguous))
    }

    fn of(weight: &'a FlexTensor, bias: Option<&'a [f32]>) -> Self {
        let shape = weight.layout().shape();
        Self {
            weights: elements(weight),
            beside: None,
            bias,
            outputs: shape[0],
            inputs: shape[1],
        }
    }

    /// Panels of half `gate`, half `up`.
    fn side_by_side(gate: &Self, up: &Self) -> Self {
        Self {
            weights: gate.weights,
            beside: Some(up.weights),
            bias: None,
            outputs: gate.outputs,
            inputs: gate.inputs,
        }
    }

    /// Outputs of a panel.
    fn panel_outputs(&self) -> usize {
        if self.beside.is_some() {
            COLUMNS / 2
        } else {
            COLUMNS
        }
    }

    fn panels(&self) -> usize {
        self.outputs.div_ceil(self.panel_outputs())
    }

    /// The rows of weights in panel `panel`; those that do not exist are `zeros`.
    fn rows(&self, panel: usize, zeros: &'a [W]) -> [&'a [W]; COLUMNS] {
        let row = |weights: &'a [W], row: usize| {
            if row < self.outputs {
                &weights[row * self.inputs..][..self.inputs]
            } else {
                zeros
            }
        };
        std::array::from_fn(|column| match self.beside {
            None => row(self.weights, panel * COLUMNS + column),
            Some(_) if column < COLUMNS / 2 => row(self.weights, panel * COLUMNS / 2 + column),
            Some(beside) => row(beside, panel * COLUMNS / 2 + column - COLUMNS / 2),
        })
    }
}

/// Where a thread has multiplied: outputs of a product, and the first of the rows.
#[derive(Clone, Copy)]
struct Place {
    product: usize,
    first_row: usize,
    /// First output.
    first: usize,
    /// Outputs.
    width: usize,
}

/// The sums of a place, and those of the up projection beside a gate's.
struct Sums<'t> {
    /// `[rows, stride]`.
    lines: &'t mut [f32],
    stride: usize,
    /// As `lines`; where it is empty, each line is half gate, half up.
    up: &'t mut [f32],
}

impl Sums<'_> {
    /// Rows, counted from `first_row`, with their sums.
    fn rows(&self, first_row: usize) -> impl Iterator<Item = (usize, &[f32])> {
        (first_row..).zip(self.lines.chunks_exact(self.stride))
    }

    /// Puts `silu(gate) * up` in the gate's place.
    fn gate(&mut self) {
        if self.up.is_empty() {
            simd::silu_mul_halves(self.lines);
        } else {
            simd::silu_mul(self.lines, self.up);
        }
    }
}

/// A row-major matrix that several threads write to.
struct Matrix<'a, T> {
    start: *mut T,
    len: usize,
    columns: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: `write` leaves it to its caller that no two threads have the same element.
unsafe impl<T: Send> Sync for Matrix<'_, T> {}

impl<'a, T> Matrix<'a, T> {
    fn new(elements: &'a mut [T], columns: usize) -> Self {
        Self {
            start: elements.as_mut_ptr(),
            len: elements.len(),
            columns,
            lifetime: PhantomData,
        }
    }

    /// `width` elements of a row from `column` on.
    ///
    /// # Safety
    ///
    /// They must be nobody else's for as long as the slice lives.
    #[expect(clippy::mut_from_ref, reason = "that is the contract")]
    unsafe fn write(&self, row: usize, column: usize, width: usize) -> &mut [T] {
        let first = row * self.columns + column;
        let inside = column + width <= self.columns && first + width <= self.len;
        assert!(inside, "a tile lies in the matrix");
        // SAFETY: they lie in the slice that this was made of, which is borrowed for as long as this lives, by
        // the assertion; that nobody else has them is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), width) }
    }
}

#[derive(Default)]
struct Scratch {
    panel: Vec<u32>,
    tile: Vec<f32>,
    up: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Rows of activations.
pub(super) struct Activations<'a> {
    elements: &'a [f32],
    count: usize,
    width: usize,
    vectors: Vectors,
}

impl<'a> Activations<'a> {
    fn new(rows: &'a FlexTensor) -> Self {
        let shape = rows.layout().shape();
        Self {
            elements: contiguous(rows),
            count: shape[0],
            width: shape[1],
            vectors: Vectors::detect(),
        }
    }

    /// Burn's own product would panic, too.
    fn check<W>(&self, product: &Product<'_, W>) {
        let beside = product.beside.map_or(product.weights.len(), <[W]>::len);
        let size = product.outputs * product.inputs;
        assert!(
            product.inputs == self.width && product.weights.len() == size && beside == size,
            "weights [{}, {}] for rows of {}",
            product.outputs,
            product.inputs,
            self.width
        );
    }

    /// Multiplies all rows with every product; `finish` has the sums of each place once.
    fn products<W: Packed>(
        &self,
        products: &[Product<'_, W>],
        finish: impl Fn(Place, Sums<'_>) + Sync,
    ) {
        for product in products {
            self.check(product);
        }
        if self.count == 0 {
            return;
        }
        if self.count <= FEW_ROWS {
            self.dots(products, finish);
        } else {
            self.panels(products, finish);
        }
    }

    /// A few rows: weights are read where they lie.
    fn dots<W: Packed>(
        &self,
        products: &[Product<'_, W>],
        finish: impl Fn(Place, Sums<'_>) + Sync,
    ) {
        let total: usize = products.iter().map(|part| part.outputs).sum();
        let chunk = self.chunk(total);
        let mut places = Vec::new();
        for (product, part) in products.iter().enumerate() {
            places.extend((0..part.outputs).step_by(chunk).map(|first| Place {
                product,
                first_row: 0,
                first,
                width: chunk.min(part.outputs - first),
            }));
        }
        in_parallel(DOTS_FACTOR * total * self.width, places, |place| {
            let part = &products[place.product];
            let range = place.first * self.width..(place.first + place.width) * self.width;
            let size = self.count * place.width;
            SCRATCH.with_borrow_mut(|Scratch { tile, up, .. }| {
                tile.resize(size, 0.0);
                W::dots(
                    self.elements,
                    self.width,
                    &part.weights[range.clone()],
                    tile,
                );
                up.resize(part.beside.map_or(0, |_| size), 0.0);
                if let Some(beside) = part.beside {
                    W::dots(self.elements, self.width, &beside[range], up);
                }
                let stride = place.width;
                finish(
                    place,
                    Sums {
                        lines: tile,
                        stride,
                        up,
                    },
                );
            });
        });
    }

    /// Outputs for one task of a few rows: two tasks a thread even out what else the machine does.
    fn chunk(&self, outputs: usize) -> usize {
        if DOTS_FACTOR * outputs * self.width < PARALLEL_FROM {
            return outputs;
        }
        outputs
            .div_ceil(2 * rayon::current_num_threads())
            .next_multiple_of(4)
    }

    /// Many rows: weights are packed, panel by panel.
    fn panels<W: Packed>(
        &self,
        products: &[Product<'_, W>],
        finish: impl Fn(Place, Sums<'_>) + Sync,
    ) {
        let rounded = W::rounded(self.vectors, self);
        let panels: usize = products.iter().map(Product::panels).sum();
        let rows_at_a_time = self.rows_at_a_time(panels);
        let mut places = Vec::with_capacity(panels * self.count.div_ceil(rows_at_a_time));
        for first_row in (0..self.count).step_by(rows_at_a_time) {
            for (product, part) in products.iter().enumerate() {
                let step = part.panel_outputs();
                places.extend((0..part.outputs).step_by(step).map(|first| Place {
                    product,
                    first_row,
                    first,
                    width: step.min(part.outputs - first),
                }));
            }
        }
        let zeros = vec![W::zeroed(); self.width];
        let work = panels * COLUMNS * self.width * self.count;
        in_parallel(work, places, |place| {
            let part = &products[place.product];
            let weights = part.rows(place.first / part.panel_outputs(), &zeros);
            let count = rows_at_a_time.min(self.count - place.first_row);
            self.tile(
                rounded.as_deref(),
                &weights,
                place.first_row,
                count,
                |tile| {
                    let sums = Sums {
                        lines: tile,
                        stride: COLUMNS,
                        up: &mut [],
                    };
                    finish(place, sums);
                },
            );
        });
    }

    /// The sums `[count, COLUMNS]` of rows from `first_row` on with one panel, handed to `finish`.
    fn tile<W: Packed>(
        &self,
        rounded: Option<&[u32]>,
        weights: &[&[W]; COLUMNS],
        first_row: usize,
        count: usize,
        finish: impl FnOnce(&mut [f32]),
    ) {
        SCRATCH.with_borrow_mut(|scratch| {
            let Scratch { panel, tile, .. } = scratch;
            tile.resize(count * COLUMNS, 0.0);
            match rounded {
                Some(rounded) => self.multiply_rounded(rounded, weights, first_row, panel, tile),
                None => self.multiply(weights, first_row, panel, tile),
            }
            finish(tile);
        });
    }

    fn multiply<W: Packed>(
        &self,
        weights: &[&[W]; COLUMNS],
        first_row: usize,
        panel: &mut Vec<u32>,
        tile: &mut [f32],
    ) {
        let rows = Rows {
            elements: &self.elements[first_row * self.width..],
            stride: self.width,
            count: tile.len() / COLUMNS,
        };
        for first in (0..self.width).step_by(DEPTH) {
            let depth = DEPTH.min(self.width - first);
            panel.resize(depth * COLUMNS, 0);
            W::pack(self.vectors, weights, first, panel);
            let panel = bytemuck::cast_slice(panel);
            let rows = rows.skip_columns(first);
            tile::multiply(self.vectors, rows, panel, depth, tile, first > 0);
        }
    }

    fn multiply_rounded<W: Packed>(
        &self,
        rounded: &[u32],
        weights: &[&[W]; COLUMNS],
        first_row: usize,
        panel: &mut Vec<u32>,
        tile: &mut [f32],
    ) {
        let width = self.width / 2;
        let rows = Rows {
            elements: &rounded[first_row * width..],
            stride: width,
            count: tile.len() / COLUMNS,
        };
        for first in (0..width).step_by(DEPTH) {
            let depth = DEPTH.min(width - first);
            panel.resize(depth * COLUMNS, 0);
            pack_pairs(self.vectors, weights, 2 * first, panel);
            tile::multiply_bf16(rows.skip_columns(first), panel, depth, tile, first > 0);
        }
    }

    fn rows_at_a_time(&self, panels: usize) -> usize {
        let wanted = (4 * rayon::current_num_threads()).div_ceil(panels);
        self.count.div_ceil(wanted).clamp(56, ROWS_AT_A_TIME)
    }
}

fn in_parallel<T: Send>(work: usize, tasks: Vec<T>, run: impl Fn(T) + Sync + Send) {
    if work < PARALLEL_FROM {
        tasks.into_iter().for_each(run);
    } else {
        tasks.into_par_iter().for_each(run);
    }
}
