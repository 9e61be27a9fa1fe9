//! Search for the transformer blocks each stage can do without.
