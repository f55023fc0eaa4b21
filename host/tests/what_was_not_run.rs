//! Says which suites the test command did not run.
fn main() {}
