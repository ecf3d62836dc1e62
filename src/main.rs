//! The `evb` binary.
fn main() {}
