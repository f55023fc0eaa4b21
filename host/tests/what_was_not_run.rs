//! Says which suites this run of the tests left out, why, and how to run them.
//!
//! Not a test: a target without a harness, whose name puts it behind the other suites of this crate.

fn main() {
    // Whoever asks for a list of tests reads it by machine.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let left_out: Vec<&str> = [
        (
            cfg!(feature = "real"),
            "real   what is promised of a real Kafka, in some minutes\n       \
             cargo test --release -p wasmill --features real --test real",
        ),
        (
            cfg!(feature = "soak"),
            "soak   ten minutes of kills, of brokers too; run before a release\n       \
             cargo test --release -p wasmill --features soak --test soak",
        ),
    ]
    .into_iter()
    .filter(|(is_run, _)| !is_run)
    .map(|(_, text)| text)
    .collect();
    if left_out.is_empty() {
        return;
    }
    println!(
        "\nNot run, because they need a Kafka (they start one, which takes Java 17 and Maven, or use WASMILL_TEST_KAFKA=HOST:PORT):\n"
    );
    for text in left_out {
        println!("  {text}\n");
    }
}
