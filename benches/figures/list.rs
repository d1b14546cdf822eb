//! How the time to list containers grows with their number.

use std::time::Instant;

use dormouse::varlink::client::Connection;
use serde_json::json;

use crate::dormouse::{Dormouse, call};
use crate::figure::{Figure, Limit, Result, Unit, failed, median, ms};
use crate::host::{Bench, check_interrupt};

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let dormouse = Dormouse::start(bench, "list", &["busybox"])?;
    let mut connection = dormouse.connect()?;
    let hundred = list_of(bench, &mut connection, 100, 100)?;
    let thousand = list_of(bench, &mut connection, 900, 1000)?;
    let figure = |name, what: &str, limit| Figure {
        name,
        what: what.to_owned(),
        against: "List of 100".to_owned(),
        unit: Unit::Milliseconds,
        ours: median(&thousand),
        theirs: median(&hundred),
        limit,
        samples: (thousand.len(), hundred.len()),
    };
    Ok(vec![
        figure("list-growth", "List of 1,000 containers", Limit::Ratio(10.0)),
        figure("list-time", "the same, in itself", Limit::Value(20.0)),
    ])
}

/// Adds containers, and gives the times of lists of them all.
fn list_of(bench: &Bench, connection: &mut Connection, more: usize, all: usize) -> Result<Vec<f64>> {
    for _ in 0..more {
        check_interrupt()?;
        let spec = json!({ "image": "busybox", "networkNamespace": {"kind": "private"}, "command": ["/bin/true"], "labels": { "purpose": "bench" } });
        call(connection, "Container.Create", json!({ "spec": spec }))?;
    }
    let mut times = Vec::new();
    for turn in 0..bench.times(50) + 2 {
        let since = Instant::now();
        let reply = call(connection, "Container.List", json!({}))?;
        let took = ms(since.elapsed());
        let count = reply["containers"].as_array().map_or(0, Vec::len);
        if count != all {
            return Err(failed(format!("list {all} containers"))(format!("{count} are listed")));
        }
        if turn >= 2 {
            times.push(took);
        }
    }
    Ok(times)
}
