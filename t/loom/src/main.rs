//! Runs the models of memory that workers share (`src/*/orders.rs`) in loom: first as the code is, then once for each strength
//! of an ordering that the model needs, without that strength. The first run must pass, the others must fail.
//!
//! ```text
//! orders           all models
//! orders TEXT      those whose name contains the text, with the messages of those that fail
//! ```

use std::env;
use std::panic::{catch_unwind, set_hook};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Instant;

use keepalive::base::checked::{leave_out, Model, Strength};
use keepalive::{ledger, lessons, metrics};

fn main() -> ExitCode {
    let text = env::args().nth(1);
    if text.is_none() {
        // Panics are expected, and are counted.
        set_hook(Box::new(|_| {}));
    }
    let is_chosen = |model: &&Model| text.as_deref().is_none_or(|text| model.name.contains(text));
    let all = [ledger::orders::MODELS, lessons::orders::MODELS, metrics::orders::MODELS];
    let (mut passed, mut failed) = (0, 0);
    let mut count = |is_right: bool| if is_right { passed += 1 } else { failed += 1 };
    for model in all.into_iter().flatten().filter(is_chosen) {
        count(holds(model, None));
        model.needs.iter().for_each(|strength| count(!holds(model, Some(*strength))));
    }
    println!("{passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// Whether a model holds in all orders.
fn holds(model: &Model, without: Option<Strength>) -> bool {
    leave_out(without);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(model.interruptions);
    let (begun, orders) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let (run, counted) = (model.run, orders.clone());
    let holds = catch_unwind(move || {
        builder.check(move || {
            counted.fetch_add(1, Relaxed);
            run();
        });
    })
    .is_ok();
    let (orders, time) = (orders.load(Relaxed), begun.elapsed().as_millis());
    match without {
        None if holds => println!("{}: holds in {orders} orders ({time} ms)", model.name),
        None => println!("{}: FAILED in the order {orders}", model.name),
        Some(strength) if holds => println!("    without {strength:?}: NOT NOTICED in {orders} orders"),
        Some(strength) => println!("    without {strength:?}: noticed in the order {orders}"),
    }
    holds
}
