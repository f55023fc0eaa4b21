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
            "real   what is promised of a real Kafka and a real Elasticsearch, in some minutes\n       \
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
        "\nNot run, because they need servers (they start them, which takes Java 17, Maven and curl, or use WASMILL_TEST_KAFKA=HOST:PORT\n\
         and WASMILL_TEST_ELASTICSEARCH=URL):\n"
    );
    for text in left_out {
        println!("  {text}\n");
    }
}
