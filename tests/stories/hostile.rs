//! Ten thousand calls that nobody should make, at every method that introspection lists: each is
//! refused by a name, none brings the daemon down, and what was refused changed nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zbus::wire::{Array, Dict, Fd, Signature, StructureBuilder, Variant};
use zbus::{Connection, DBusError, Error};

use crate::common::pass::{dict, export_into};
use crate::common::{Daemon, Dice, sh};
use crate::needs_root;

const ROOT: &str = "/org/strongroom1";
const MANAGER: &str = "org.strongroom1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// Calls with something wrong in them, and calls that may be right by chance.
const FLAWED: usize = 9_000;
const WILD: usize = 1_000;
/// Calls under way at a time.
const WORKERS: usize = 24;
/// Errors of D-Bus itself that say what was wrong.
const STANDARD: &[&str] = &[
    "UnknownMethod",
    "UnknownInterface",
    "UnknownObject",
    "UnknownProperty",
    "InvalidArgs",
    "InvalidSignature",
    "AccessDenied",
    "PropertyReadOnly",
    "LimitsExceeded",
];

/// A method as introspection lists it.
#[derive(Debug, Clone)]
pub struct Method {
    pub object: String,
    pub interface: String,
    pub name: String,
    /// Signatures of what goes in.
    pub inputs: Vec<String>,
}

impl Method {
    fn full_name(&self) -> String {
        format!("{}.{}", self.interface, self.name)
    }

    fn reads(&self) -> bool {
        self.name.starts_with("Get")
            || self.name.starts_with("List")
            || self.name.starts_with("Plan")
            || ["FindFiles", "DiffBackups"].contains(&self.name.as_str())
    }

    fn has_options(&self) -> bool {
        self.inputs.iter().any(|s| s == "a{sv}")
    }
}

/// What an attribute of an XML tag says.
fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    tag.split(&format!(" {name}=\"")).nth(1)?.split('"').next()
}

/// The methods of one interface at an object, and the keys that their comments name.
pub fn introspect(daemon: &Daemon, object: &str, wanted: &str) -> (Vec<Method>, BTreeSet<String>) {
    let xml = daemon.object(object, "org.freedesktop.DBus.Introspectable", "Introspect", &[]).unwrap();
    let (mut methods, mut keys) = (Vec::<Method>::new(), BTreeSet::new());
    let (mut interface, mut within) = (String::new(), false);
    for tag in xml.as_str().unwrap().split('<') {
        if tag.starts_with("interface ") {
            interface = attribute(tag, "name").unwrap().to_owned();
        } else if interface != wanted {
            continue;
        } else if tag.starts_with("method ") {
            within = true;
            let (object, name) = (object.to_owned(), attribute(tag, "name").unwrap().to_owned());
            methods.push(Method { object, interface: interface.clone(), name, inputs: Vec::new() });
        } else if tag.starts_with("/method") || tag.starts_with("signal") || tag.starts_with("property") {
            within = false;
        } else if within && tag.starts_with("arg ") && attribute(tag, "direction") != Some("out") {
            methods.last_mut().unwrap().inputs.push(attribute(tag, "type").unwrap().to_owned());
        } else if tag.starts_with("!--") {
            keys.extend(tag.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    keys.retain(|k| !k.is_empty() && k.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    assert!(methods.iter().all(|m| m.name == "Reload" || !m.inputs.is_empty()));
    (methods, keys)
}

/// What the calls are made of.
struct Stock {
    methods: Vec<Method>,
    keys: Vec<String>,
    /// A directory in which a call that goes through by chance may do as it likes.
    place: String,
}

fn pick<'a, T: ?Sized>(dice: &mut Dice, list: &[&'a T]) -> &'a T {
    list[number(dice, list.len())]
}

fn number(dice: &mut Dice, below: usize) -> usize {
    ((dice.roll() * below as f64) as usize).min(below - 1)
}

fn text(s: impl Into<String>) -> Variant<'static> {
    Variant::from(s.into())
}

/// A text that is neither a name nor anything that there is.
fn bad_name(dice: &mut Dice) -> String {
    match number(dice, 14) {
        0 => String::new(),
        1 => "a/b".into(),
        2 => "..".into(),
        3 => "-rf".into(),
        4 => "9999999".into(),
        5 => "99999999999999999999999999".into(),
        6 => "a\nb".into(),
        7 => "\u{1b}[31mred".into(),
        8 => "x".repeat(256),
        9 => "\u{65e5}".repeat(100_000),
        10 => "/".into(),
        11 => "//".into(),
        12 => "a\u{7f}".into(),
        _ => format!("{}\u{1}", "y".repeat(number(dice, 400))),
    }
}

/// Any text, some of it meant for a name.
fn any_text(dice: &mut Dice, stock: &Stock) -> String {
    match number(dice, 12) {
        0 => bad_name(dice),
        1 => pick(dice, &["web", "main", "local", "default", "1", "*", "default/web"]).into(),
        2 => format!("{}/{}", stock.place, number(dice, 30)),
        3 => "((((((((((a*)*)*)*)*)*)*)*)*)*){50}".into(),
        4 => "%s%n%x\u{202e}\u{feff}'; DROP TABLE backups; --".into(),
        5 => pick(dice, &["full", "backup", "zstd:3", "recovery", "overwrite", "root", "pending"]).into(),
        6 => pick(dice, &["* * * * *", "@daily", "99 99 * * *", "61 * * * * *"]).into(),
        7 => format!("n{}", number(dice, 50)),
        8 => "\u{1f980}".repeat(number(dice, 300)),
        9 => "x".repeat(number(dice, 300_000)),
        10 => "-id".into(),
        _ => (0..number(dice, 40)).filter_map(|_| char::from_u32(1 + number(dice, 0xffff) as u32)).collect(),
    }
}

fn strings(list: Vec<String>) -> Variant<'static> {
    Variant::from(list)
}

/// A value of any type that no key takes.
fn bad_value(dice: &mut Dice) -> Variant<'static> {
    match number(dice, 7) {
        0 => Variant::F64(f64::NAN),
        1 => Variant::F64(f64::INFINITY),
        2 => Variant::from((1_u32, "structure")),
        3 => {
            let mut odd = Dict::new(&Signature::U32, &Signature::Str);
            odd.append(Variant::U32(1), Variant::from("a")).unwrap();
            Variant::Dict(odd)
        }
        4 => (0..18 + number(dice, 12)).fold(Variant::Bool(true), |v, _| Variant::Variant(Box::new(v))),
        5 => Variant::Variant(Box::new(Variant::F64(-0.0))),
        _ => {
            let mut list = Array::new(&Signature::F64);
            (0..1 + number(dice, 2_000)).for_each(|i| list.append(Variant::F64(i as f64)).unwrap());
            Variant::Array(list)
        }
    }
}

/// Any value at all.
fn any_value(dice: &mut Dice, stock: &Stock, depth: usize) -> Variant<'static> {
    match number(dice, if depth > 3 { 10 } else { 15 }) {
        0 => Variant::Bool(number(dice, 2) == 0),
        1 => Variant::U32(number(dice, 50) as u32),
        2 => Variant::I32(-(number(dice, 5) as i32)),
        3 => Variant::U64(u64::MAX - number(dice, 2) as u64),
        4 => Variant::I64(i64::MIN),
        5 => Variant::U8(number(dice, 255) as u8),
        6 | 7 => text(any_text(dice, stock)),
        8 => bad_value(dice),
        9 => Variant::Fd(Fd::from(std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap()))),
        10 => strings((0..number(dice, 6)).map(|_| any_text(dice, stock)).collect()),
        11 => strings(vec!["x".into(); 20_000]),
        12 => Variant::from((0..number(dice, 100)).map(|_| number(dice, 256) as u8).collect::<Vec<u8>>()),
        _ => {
            let pairs = (0..number(dice, 5)).map(|_| (any_key(dice, stock), any_value(dice, stock, depth + 1)));
            dict(pairs.collect::<BTreeMap<_, _>>().into_iter().collect())
        }
    }
}

fn any_key(dice: &mut Dice, stock: &Stock) -> String {
    stock.keys[number(dice, stock.keys.len())].clone()
}

/// Arguments that would do, as far as their types go.
fn argument(dice: &mut Dice, stock: &Stock, signature: &str, wild: bool) -> Variant<'static> {
    match signature {
        "s" if wild => text(any_text(dice, stock)),
        "s" => text(pick(dice, &["web", "main", "local", "default", "1"])),
        "t" => Variant::U64(if wild { number(dice, 6) as u64 } else { 1 }),
        "as" if wild => strings((0..number(dice, 4)).map(|_| any_text(dice, stock)).collect()),
        "as" => strings(vec!["web".into()]),
        "v" => Variant::Variant(Box::new(any_value(dice, stock, 0))),
        _ if wild => {
            let pairs = (0..number(dice, 6)).map(|_| (any_key(dice, stock), any_value(dice, stock, 0)));
            dict(pairs.collect::<BTreeMap<_, _>>().into_iter().collect())
        }
        _ => dict(Vec::new()),
    }
}

/// Arguments with at least one thing wrong.
fn flawed(dice: &mut Dice, stock: &Stock, method: &Method) -> Vec<Variant<'static>> {
    let mut arguments: Vec<_> = method.inputs.iter().map(|s| argument(dice, stock, s, false)).collect();
    let options = method.has_options();
    let named = method.inputs.iter().any(|s| ["s", "t", "as"].contains(&s.as_str()));
    match number(dice, 10) {
        // An unknown key among known ones.
        0..3 if options => {
            let bad: &[&str] = &["", "no such key", "a\u{1}b", "Paths", "paths ", "__proto__"];
            let key = if number(dice, 20) == 0 { "k".repeat(200_000) } else { pick(dice, bad).to_owned() };
            let mut pairs: BTreeMap<_, _> =
                (0..number(dice, 3)).map(|_| (any_key(dice, stock), any_value(dice, stock, 0))).collect();
            pairs.insert(key, any_value(dice, stock, 0));
            *arguments.last_mut().unwrap() = dict(pairs.into_iter().collect());
        }
        // A value that no key takes.
        3..6 if options => {
            let key = any_key(dice, stock);
            *arguments.last_mut().unwrap() = dict(vec![(key, bad_value(dice))]);
        }
        // A name or an id that cannot be.
        0..7 if named => {
            let all: Vec<usize> = (0..arguments.len()).filter(|i| method.inputs[*i] != "a{sv}").collect();
            let at = all[number(dice, all.len())];
            let bad = match method.inputs[at].as_str() {
                "s" => text(bad_name(dice)),
                "t" => Variant::U64([0, u64::MAX, 1 << 40, 999_999][number(dice, 4)]),
                _ => strings((0..number(dice, 5)).map(|_| bad_name(dice)).collect()),
            };
            arguments[at] = bad;
        }
        // Another signature.
        _ => match number(dice, 4) {
            0 => drop(arguments.pop()),
            1 => arguments.push(any_value(dice, stock, 0)),
            2 => arguments.insert(0, bad_value(dice)),
            _ => arguments = (0..1 + number(dice, 6)).map(|_| bad_value(dice)).collect(),
        },
    }
    arguments
}

/// What came of a call: nothing, or the error's name and words.
async fn send(bus: &Connection, method: &Method, arguments: Vec<Variant<'static>>) -> Result<(), (String, String)> {
    let call = (Some("org.strongroom1"), method.object.as_str(), Some(method.interface.as_str()), method.name.as_str());
    let sent = if arguments.is_empty() {
        bus.call_method(call.0, call.1, call.2, call.3, &()).await
    } else {
        let body = arguments.into_iter().fold(StructureBuilder::new(), StructureBuilder::append_field);
        bus.call_method(call.0, call.1, call.2, call.3, &body.build().unwrap()).await
    };
    match sent {
        Ok(_) => Ok(()),
        Err(Error::MethodError(name, words, _)) => Err((name.to_string(), words.unwrap_or_default())),
        Err(Error::FDO(error)) => Err((error.name().to_string(), error.description().unwrap_or_default().to_owned())),
        Err(other) => panic!("{}: no answer but {other:?}", method.name),
    }
}

/// What is wrong with how a call was refused.
fn complaint(name: &str, words: &str) -> Option<String> {
    let standard = name.strip_prefix("org.freedesktop.DBus.Error.").is_some_and(|n| STANDARD.contains(&n));
    if !standard && !name.starts_with("org.strongroom1.Error.") {
        return Some(format!("is {name}: {words}"));
    }
    if words.len() > 10_000 || words.chars().any(char::is_control) {
        return Some(format!("says {} bytes that are not one plain sentence", words.len()));
    }
    None
}

#[derive(Default)]
struct Tally {
    /// How often each method refused a call.
    refused: BTreeMap<String, usize>,
    /// Methods that went through though they change something.
    changed: BTreeMap<String, usize>,
    complaints: Vec<String>,
}

/// Throws calls from many sides at once.
async fn throw(daemon: &Daemon, stock: &Arc<Stock>, seed: u64, count: usize, wild: bool) -> Tally {
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let (address, stock) = (daemon.address().to_owned(), Arc::clone(stock));
        workers.spawn(async move {
            let bus = zbus::connection::Builder::address(address.as_str()).build().await.unwrap();
            let mut dice = Dice::seeded(seed ^ ((worker as u64 + 1) << 32));
            let mut tally = Tally::default();
            for i in (worker..count).step_by(WORKERS) {
                // Every method gets its share.
                let method = &stock.methods[i % stock.methods.len()];
                let arguments = if wild {
                    method.inputs.iter().map(|s| argument(&mut dice, &stock, s, true)).collect()
                } else {
                    flawed(&mut dice, &stock, method)
                };
                let mut shown = format!("{} {arguments:?}", method.name);
                shown.truncate(shown.char_indices().map(|(at, _)| at).take_while(|at| *at < 400).last().unwrap_or(0));
                match send(&bus, method, arguments).await {
                    Ok(()) if method.reads() => {}
                    Ok(()) => {
                        *tally.changed.entry(method.name.clone()).or_default() += 1;
                        if !wild {
                            tally.complaints.push(format!("call {i}, {shown}: went through"));
                        }
                    }
                    Err((name, words)) => {
                        *tally.refused.entry(method.full_name()).or_default() += 1;
                        tally.complaints.extend(complaint(&name, &words).map(|c| format!("call {i}, {shown}: {c}")));
                    }
                }
            }
            tally
        });
    }
    let mut all = Tally::default();
    while let Some(tally) = workers.join_next().await {
        let tally = tally.unwrap();
        all.complaints.extend(tally.complaints);
        for (sum, part) in [(&mut all.changed, tally.changed), (&mut all.refused, tally.refused)] {
            for (name, count) in part {
                *sum.entry(name).or_default() += count;
            }
        }
    }
    all
}

/// The same over busctl: every method, with what it takes of the wrong kind.
fn by_busctl(daemon: &Daemon, methods: &[Method]) -> Vec<String> {
    let mut wrong = Vec::new();
    for method in methods {
        for words in [&["d", "nan"][..], &["a{sv}", "1", "paths", "ad", "2", "inf", "nan"]] {
            let refused = daemon.object(&method.object, &method.interface, &method.name, words);
            match refused {
                Ok(_) => wrong.push(format!("busctl {} {words:?}: went through", method.name)),
                Err(f) => wrong.extend(complaint(&f.name, &f.message).map(|c| format!("busctl {}: {c}", method.name))),
            }
        }
    }
    wrong
}

#[test]
fn ten_thousand_hostile_calls() {
    needs_root!("ten_thousand_hostile_calls");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "echo one > file; head -c 1000000 /dev/urandom > more");
    daemon.add("web", &daemon.source());
    daemon.back_up("web");
    // One of everything, so that a call is refused for what is wrong with it, not for want of a thing.
    daemon.call_with("SetSchedule", &["sa{sv}", "web", "1", "cron", "s", "0 2 1 1 *"]).unwrap();
    daemon.work_of(&daemon.ok("CreateCheckpoint sa{sv} main 0"));
    daemon.ok(&format!(
        "CreateTask a{{sv}} 3 name s web store_location s {} content a{{sv}} 1 common_data b true",
        daemon.path("copies").display()
    ));
    daemon.settle();
    // A job that goes on for as long as nobody reads: an export into a full pipe.
    let pipe = daemon.path("pipe");
    sh(daemon.dir(), "mkfifo pipe; mkdir place");
    let _reader = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let writer = std::fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let id = export_into(&daemon, 1, "tar", writer.into());
    let job = format!("/org/strongroom1/job/{id}");
    daemon.wait_running(id);

    let (mut methods, mut keys) = introspect(&daemon, ROOT, MANAGER);
    for (object, interface) in [(job.as_str(), "org.strongroom1.Job"), (ROOT, PROPERTIES)] {
        let (others, more) = introspect(&daemon, object, interface);
        assert!(!others.is_empty(), "{interface}");
        methods.extend(others);
        keys.extend(more);
    }
    keys.remove("fd");
    assert!(methods.len() > 70 && keys.len() > 60, "{methods:?} {keys:?}");
    let place = daemon.path("place").display().to_string();
    let stock = Arc::new(Stock { methods, keys: keys.into_iter().collect(), place });

    let seed = Dice::seed(1);
    let before = daemon.catalog();
    let tally = runtime.block_on(throw(&daemon, &stock, seed, FLAWED, false));
    let mut wrong = tally.complaints;
    wrong.extend(by_busctl(&daemon, &stock.methods));
    assert!(
        wrong.is_empty(),
        "{} calls were not refused well:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    let refused: usize = tally.refused.values().sum();
    assert!(refused > FLAWED * 9 / 10, "{refused} refused");
    let share = FLAWED / stock.methods.len();
    for name in stock.methods.iter().map(Method::full_name) {
        let times = tally.refused.get(&name).copied().unwrap_or_default();
        assert!(times >= share * 2 / 3, "{name} refused {times} of {share} calls");
    }
    assert_eq!(daemon.catalog(), before, "refused calls changed the catalog");
    assert_eq!(daemon.ok(&format!("GetJob t {id}"))["state"], "running");
    daemon.assert_well();

    // These may go through by chance; those that do not are refused as well as the others.
    let tally = runtime.block_on(throw(&daemon, &stock, seed + 1, WILD, true));
    let wrong = tally.complaints;
    assert!(
        wrong.is_empty(),
        "{} calls were not refused well:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    println!("went through: {:?}", tally.changed);
    daemon.catalog();
    daemon.assert_well();
}
