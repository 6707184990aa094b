//! Fuzzes the code that reads bytes of clients and servers, and the code whose counts must be exact in any order of events.
//!
//! Each target takes any bytes, and panics if the tested code disagrees with a naive second version, or with a rule. With
//! the feature `libfuzzer` this is a libFuzzer program for the target that the variable `FUZZ_TARGET` names. Without it:
//!
//!     fuzz                    # all seeds, each by its target
//!     fuzz TARGET FILE..      # these inputs, e.g. what was found
//!     fuzz --list             # the targets

#![cfg_attr(feature = "libfuzzer", no_main)]

mod accept;
mod carrier;
mod decision;
mod directive;
mod drain;
mod frames;
mod handover;
mod hint;
mod hpack;
mod identity;
mod input;
mod ledger;
mod lessons;
mod metrics;
mod names;
mod pool;
mod queue;
mod records;
mod request;
mod request_head;
mod response;
mod stateful;
mod times;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 21] = [
    ("hint", hint::target),
    ("request_head", request_head::target),
    ("drain", drain::target),
    ("frames", frames::target),
    ("hpack", hpack::target),
    ("request", request::target),
    ("response", response::target),
    ("carrier", carrier::target),
    ("accept", accept::target),
    ("handover", handover::target),
    ("names", names::target),
    ("identity", identity::target),
    ("stateful", stateful::target),
    ("directive", directive::target),
    ("decision", decision::target),
    ("times", times::target),
    ("pool", pool::target),
    ("queue", queue::target),
    ("ledger", ledger::target),
    ("metrics", metrics::target),
    ("lessons", lessons::target),
];

fn find(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|(known, _)| *known == name).map(|(_, target)| target)
}

#[cfg(feature = "libfuzzer")]
mod fuzzer {
    use std::sync::LazyLock;

    static TARGET: LazyLock<super::Target> = LazyLock::new(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        super::find(&name).expect("FUZZ_TARGET names a target")
    });

    libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
}

#[cfg(not(feature = "libfuzzer"))]
mod replay {
    use std::path::{Path, PathBuf};
    use std::process::ExitCode;
    use std::{env, fs, panic};

    use super::{find, Target, TARGETS};

    pub fn main() -> ExitCode {
        let arguments: Vec<String> = env::args().skip(1).collect();
        let inputs: Vec<(Target, PathBuf)> = match &arguments[..] {
            [list] if list == "--list" => {
                TARGETS.iter().for_each(|(name, _)| println!("{name}"));
                return ExitCode::SUCCESS;
            }
            [] => TARGETS.iter().flat_map(|(name, target)| seeds(name).map(|file| (*target, file))).collect(),
            [name, files @ ..] if !files.is_empty() => match find(name) {
                Some(target) => files.iter().map(|file| (target, file.into())).collect(),
                None => return usage(),
            },
            _ => return usage(),
        };
        let failed = inputs.iter().filter(|(target, file)| !passes(*target, file)).count();
        println!("{} passed, {failed} failed", inputs.len() - failed);
        ExitCode::from(u8::from(failed > 0))
    }

    fn usage() -> ExitCode {
        eprintln!("usage: fuzz [TARGET FILE.. | --list]");
        ExitCode::FAILURE
    }

    /// The seeds of a target.
    ///
    /// # Panics
    /// If the target has no folder of seeds.
    fn seeds(name: &str) -> impl Iterator<Item = PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|err| panic!("{}: {err}", folder.display()));
        files.map(|file| file.expect("a file of the folder").path())
    }

    fn passes(target: Target, file: &Path) -> bool {
        let data = fs::read(file).unwrap_or_else(|err| panic!("{}: {err}", file.display()));
        let passes = panic::catch_unwind(|| target(&data)).is_ok();
        if !passes {
            eprintln!("failed: {}", file.display());
        }
        passes
    }
}

#[cfg(not(feature = "libfuzzer"))]
fn main() -> std::process::ExitCode {
    replay::main()
}
