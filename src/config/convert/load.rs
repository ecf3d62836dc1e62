//! Load ports: `generator = { … }` and `sink = true`.

use toml::Spanned;

use super::port::shift;
use super::words::{Faults, destination, flag, number, place, station, vid};
use crate::config::file::{FlowsItem, GeneratorTable, PortTable, Word};
use crate::config::model::Generator;
use crate::config::report::{Fault, Span};
use crate::frame::ethernet::{TAG_LEN, Vid};
use crate::frame::mac::Mac;
use crate::load::{Flow, MIN_LEN, Rate};
use crate::relay::{DEFAULT_TRUSTED_LIMIT, MacPolicy, Mode, PortConfig};

/// Bytes of the longest frame.
const MAX_LEN: i64 = 9216;
/// Flows of one generator, at most.
const FLOWS_MAX: usize = 1 << 16;

/// The place of a word that makes this a load port.
pub fn is_load(table: &PortTable) -> Option<Span> {
    place(&table.generator).or(place(&table.sink))
}

/// What only ports with somebody behind them have.
pub fn check(table: &PortTable, faults: &mut Faults) {
    let Some(load) = is_load(table) else {
        return;
    };
    if let Some(at) = place(&table.sink)
        && flag(&table.sink) == Some(false)
    {
        faults.push(
            Fault::at(at, "`sink` is true or not there")
                .help("leave it out, and say what is plugged into the port"),
        );
    }
    let words = [
        ("queues", place(&table.queues)),
        ("standby", place(&table.standby)),
    ];
    for (key, at) in words.into_iter().filter_map(|(key, at)| Some((key, at?))) {
        faults.push(
            Fault::at(at, format!("`{key}` concerns a VM"))
                .with(load.clone(), "nobody is behind this port")
                .help("leave it out"),
        );
    }
    if let (Some(generator), Some(_)) = (place(&table.generator), &table.count) {
        faults.push(
            Fault::at(
                generator,
                "all ports of this template would send the same frames",
            )
            .help("write the ports out"),
        );
    }
}

/// A generator may use the addresses of its flows, where nothing else is said.
pub fn admit(table: &PortTable, generator: &Generator, settings: &mut PortConfig) {
    let silent = table.mac_policy.is_none() && table.mac_limit.is_none();
    if silent && settings.mode == Mode::Bridge && settings.macs.is_empty() {
        let flows = u32::try_from(generator.flows.len()).unwrap_or(u32::MAX);
        let limit = flows.max(DEFAULT_TRUSTED_LIMIT);
        settings.mac_policy = MacPolicy::Trusted { limit };
    }
}

/// The frames of a generator.
pub fn generator(table: &Spanned<GeneratorTable>, faults: &mut Faults) -> Option<Generator> {
    let words = table.get_ref();
    let before = faults.len();
    let rate = rate(&words.rate, faults);
    let flows = flows(table, faults);
    let tagged = flows.iter().any(|flow| flow.vid.is_some());
    let least = MIN_LEN + if tagged { TAG_LEN } else { 0 };
    let mut sizes = vec![];
    for item in words.sizes.iter().flat_map(Spanned::get_ref) {
        let range = least as i64..=MAX_LEN;
        sizes.extend(number::<u16>(&Some(item.clone()), "sizes", range, faults).map(usize::from));
    }
    match &words.sizes {
        None => sizes.push(64),
        Some(list) if list.get_ref().is_empty() => faults.push(
            Fault::at(list.span(), "a generator has at least one size")
                .help("such as `sizes = [64]`"),
        ),
        Some(_) => {}
    }
    (faults.len() == before).then(|| Generator {
        rate,
        sizes,
        flows,
        start: flag(&words.start).unwrap_or(true),
    })
}

fn rate(word: &Word<String>, faults: &mut Faults) -> Rate {
    let Some(word) = word else {
        return Rate::Max;
    };
    word.get_ref().parse().unwrap_or_else(|error| {
        let what = format!("`{}` is not a rate", word.get_ref());
        faults.push(Fault::at(word.span(), what).help(format!("{error}")));
        Rate::Max
    })
}

/// The flows: a list, or as many as are wanted, with addresses in a row.
fn flows(table: &Spanned<GeneratorTable>, faults: &mut Faults) -> Vec<Flow> {
    let words = table.get_ref();
    if let Some(item) = &words.flows
        && let FlowsItem::List(list) = item.get_ref()
    {
        let single = [
            ("dst", place(&words.dst)),
            ("src", place(&words.src)),
            ("vid", place(&words.vid)),
        ];
        for (key, at) in single.into_iter().filter_map(|(key, at)| Some((key, at?))) {
            faults.push(
                Fault::at(at, format!("`{key}` belongs to each of the listed flows"))
                    .with(item.span(), "the flows")
                    .help("move it there"),
            );
        }
        if list.is_empty() || list.len() > FLOWS_MAX {
            faults.push(
                Fault::at(item.span(), format!("a generator has 1 to {FLOWS_MAX} flows"))
                    .help("such as `flows = [{ dst = \"52:54:00:00:00:01\", src = \"52:54:00:00:01:01\" }]`"),
            );
        }
        let flows: Vec<_> = list
            .iter()
            .filter_map(|flow| {
                let words = flow.get_ref();
                one((&words.dst, &words.src, &words.vid), &flow.span(), faults)
            })
            .collect();
        if flows.len() == list.len()
            && let (Some(first), Some(other)) = (list.first(), odd(&flows))
        {
            let other = list.get(other).map_or(item.span(), Spanned::span);
            faults.push(
                Fault::at(
                    other,
                    "either all flows of a generator are tagged or none is",
                )
                .with(first.span(), "the first flow")
                .help("add `vid` to all of them, or make two generators"),
            );
        }
        return flows;
    }
    let Some(first) = one((&words.dst, &words.src, &words.vid), &table.span(), faults) else {
        return vec![];
    };
    let count = match words
        .flows
        .as_ref()
        .map(|item| (item.get_ref(), item.span()))
    {
        Some((FlowsItem::Count(count), at)) => {
            let word = Some(Spanned::new(at, *count));
            number(&word, "flows", 1..=FLOWS_MAX as i64, faults).unwrap_or(1)
        }
        _ => 1,
    };
    let row: Option<Vec<_>> = (0..count)
        .map(|index| {
            Some(Flow {
                dst: shift(first.dst, index)?,
                src: shift(first.src, index)?,
                vid: first.vid,
            })
        })
        .collect();
    row.unwrap_or_else(|| {
        let at = place(&words.flows).unwrap_or_else(|| table.span());
        faults.push(
            Fault::at(at, "the addresses of these flows run out")
                .help("each flow has the addresses of the one before it plus one, in the last three octets: start lower"),
        );
        vec![first]
    })
}

/// The first flow that is not tagged as the first one is.
fn odd(flows: &[Flow]) -> Option<usize> {
    let tagged = flows.first()?.vid.is_some();
    flows.iter().position(|flow| flow.vid.is_some() != tagged)
}

/// One pair of addresses.
fn one(
    (dst, src, tag): (&Word<String>, &Word<String>, &Word<i64>),
    at: &Span,
    faults: &mut Faults,
) -> Option<Flow> {
    let mut missing = |key: &str, example: &str| {
        faults.push(
            Fault::at(at.clone(), format!("a flow needs `{key}`"))
                .help(format!("add `{key} = \"{example}\"`")),
        );
    };
    if dst.is_none() {
        missing("dst", "52:54:00:00:00:01");
    }
    if src.is_none() {
        missing("src", "52:54:00:00:01:01");
    }
    let dst: Option<Mac> = dst
        .as_ref()
        .and_then(|word| destination(word.get_ref(), word.span(), faults));
    let src: Option<Mac> = src
        .as_ref()
        .and_then(|word| station(word.get_ref(), word.span(), faults));
    let vid: Option<Vid> = tag
        .as_ref()
        .and_then(|word| vid(*word.get_ref(), word.span(), faults));
    Some(Flow {
        dst: dst?,
        src: src?,
        vid,
    })
}
