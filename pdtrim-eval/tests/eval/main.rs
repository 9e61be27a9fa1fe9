//! The crate from outside, with a toy in place of a model.
#![cfg(test)]

mod bad_data;
mod kinds;
mod metrics_by_hand;
mod published_data;
mod regression;
mod report;
mod runner;
mod task_files;
mod toy;
