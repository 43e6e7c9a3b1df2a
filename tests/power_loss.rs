//! Every folder that a power loss may leave of a training.
//!
//! The system calls of a training are recorded, and from them follows what may be on disk after each. POSIX guarantees the bytes of a file
//! once the file was synced, and a name once its folder was. Until then each name may exist or not, and each file may have its old bytes, part
//! of the new ones, or zeros in their place. Every such folder must open as a state that existed, or be refused; and a file that was
//! written completely must be there.

use crate::support::broken_off::outcome;
use crate::support::points::{all, can_trace, program, said};
use crate::support::program::Place;
use crate::support::strace::{Call, SAVING, Tracing, Value};
use crate::support::whole::{MODEL, Whole, files, train};
use fmnist_gpu::files::read_bounded;
use fmnist_gpu::model::weights;
use fmnist_gpu::run::checkpoint::{Checkpoint, Checkpoints};
use fmnist_gpu::run::{Run, RunConfig, Summary, parse_history};
use fmnist_gpu::tensorboard::{EventError, read_events};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

const DEVICE: &str = "--device cpu --threads 1";

/// If more states than this are possible after a call, only some of them are checked.
const MAX_STATES: usize = 256;

/// The number of a file or folder.
type Node = usize;
/// A name in a folder.
type Name = (Node, String);
/// The working folder of the program.
const ROOT: Node = 0;

/// The effect of a call on the file system.
#[derive(Clone, Debug)]
enum Effect {
    /// From now on, the name in the folder refers to this node, or to none.
    Name(Node, String, Option<Node>),
    /// From now on, the file has these bytes.
    Bytes(Node, Rc<Vec<u8>>),
    /// The bytes of the file or the names in the folder are durable.
    Sync(Node),
}

/// The effects of the calls of a program, in order.
#[derive(Clone)]
struct Record {
    calls: Vec<Vec<Effect>>,
    /// The nodes that are folders.
    folders: HashSet<Node>,
    /// The renames: number of the call, old name, new name, node.
    renames: Vec<(usize, Name, Name, Node)>,
    /// The versions written under each final name, the oldest first.
    versions: BTreeMap<String, Vec<Rc<Vec<u8>>>>,
    /// The versions that the program relies on: path, version, first call, last call.
    relied_on: Vec<(String, usize, usize, usize)>,
}

/// The state of the file system while calls are read.
struct Reader {
    record: Record,
    names: HashMap<Name, Node>,
    bytes: HashMap<Node, Rc<Vec<u8>>>,
    /// The nodes and positions of open files.
    open: HashMap<i64, (Node, usize)>,
    nodes: Node,
}

impl Reader {
    fn node(&self, path: &str) -> Option<Node> {
        let parts = path.split('/').filter(|part| !part.is_empty());
        parts.into_iter().try_fold(ROOT, |node, part| self.names.get(&(node, part.to_string())).copied())
    }

    /// Splits a path into folder and name.
    fn place(&self, path: &str) -> Name {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.node(folder).unwrap(), name.to_string())
    }

    fn name(&mut self, path: &str, node: Option<Node>) -> Effect {
        let (folder, name) = self.place(path);
        match node {
            Some(node) => self.names.insert((folder, name.clone()), node),
            None => self.names.remove(&(folder, name.clone())),
        };
        Effect::Name(folder, name, node)
    }

    fn make(&mut self, path: &str, is_folder: bool) -> Effect {
        self.nodes += 1;
        if is_folder {
            self.record.folders.insert(self.nodes);
        } else {
            self.bytes.insert(self.nodes, Rc::default());
        }
        self.name(path, Some(self.nodes))
    }

    /// Files that are there, synced, before the first call.
    fn start_with(&mut self, before: &BTreeMap<String, Vec<u8>>) {
        let mut effects = Vec::new();
        for (path, bytes) in before {
            let path = format!("run/{path}");
            for (end, _) in path.match_indices('/') {
                if self.node(&path[..end]).is_none() {
                    effects.push(self.make(&path[..end], true));
                }
            }
            effects.push(self.make(&path, false));
            effects.push(self.set(self.nodes, bytes.clone()));
        }
        effects.extend((ROOT..=self.nodes).map(Effect::Sync));
        self.record.calls.push(effects);
    }

    fn set(&mut self, node: Node, bytes: Vec<u8>) -> Effect {
        let bytes = Rc::new(bytes);
        self.bytes.insert(node, bytes.clone());
        Effect::Bytes(node, bytes)
    }

    fn read(&mut self, call: &Call, root: &Path) {
        let paths: Vec<String> = call
            .paths(root)
            .iter()
            .filter_map(|path| Some(path.strip_prefix(root).ok()?.to_str().unwrap().to_string()))
            .filter(|path| !["OUT", "ERR", MODEL.0].contains(&path.as_str()) && !path.starts_with("home"))
            .collect();
        let (Some(path), true) = (paths.first(), call.succeeded()) else { return };
        let file = match call.args.first() {
            Some(&Value::File(file, _)) => file,
            _ => -1,
        };
        let effects = match call.name.as_str() {
            "openat" => {
                let Value::File(file, _) = call.result else { panic!("{call:?}") };
                let effects = match self.node(path) {
                    None => vec![self.make(path, false)],
                    Some(node) if call.text(2).contains("O_TRUNC") => vec![self.set(node, Vec::new())],
                    Some(_) => Vec::new(),
                };
                assert!(!call.text(2).contains("O_APPEND"), "not modelled: {call:?}");
                self.open.insert(file, (self.node(path).unwrap(), 0));
                effects
            }
            "write" => {
                let (Value::Other(count), Some(data)) = (&call.result, call.bytes(1)) else { panic!("{call:?}") };
                let (node, at) = self.open[&file];
                let mut bytes = self.bytes[&node].to_vec();
                bytes.truncate(at);
                bytes.extend(&data[..count.parse::<usize>().unwrap()]);
                self.open.insert(file, (node, bytes.len()));
                vec![self.set(node, bytes)]
            }
            "ftruncate" => {
                let node = self.open[&file].0;
                let mut bytes = self.bytes[&node].to_vec();
                bytes.resize(call.text(1).parse().unwrap(), 0);
                vec![self.set(node, bytes)]
            }
            "fsync" | "fdatasync" => vec![Effect::Sync(self.open[&file].0)],
            "mkdir" | "mkdirat" => vec![self.make(path, true)],
            "unlink" | "unlinkat" | "rmdir" => {
                let now = self.record.calls.len();
                let is_it = |relied: &&mut (String, usize, usize, usize)| relied.0 == *path && relied.3 == usize::MAX;
                self.record.relied_on.iter_mut().filter(is_it).for_each(|relied| relied.3 = now);
                vec![self.name(path, None)]
            }
            "rename" | "renameat" | "renameat2" => {
                let node = self.node(path).unwrap();
                let (from, to) = (self.place(path), self.place(&paths[1]));
                self.record.renames.push((self.record.calls.len(), from, to, node));
                if self.record.folders.contains(&node) {
                    let moved = vec![self.name(&paths[1], Some(node)), self.name(path, None)];
                    self.record.calls.push(moved);
                    return;
                }
                let versions = self.record.versions.entry(paths[1].clone()).or_default();
                versions.push(self.bytes[&node].clone());
                let version = versions.len() - 1;
                // Before that, the name may refer to the previous version.
                self.record.relied_on.push((paths[1].clone(), version, self.record.calls.len() + 1, usize::MAX));
                vec![self.name(&paths[1], Some(node)), self.name(path, None)]
            }
            _ => panic!("not modelled: {call:?}"),
        };
        if !effects.is_empty() {
            self.record.calls.push(effects);
        }
    }
}

impl Record {
    /// Trains two epochs, over the files `before` if there are any, and returns the record and the place.
    fn new(before: &BTreeMap<String, Vec<u8>>) -> (Self, Place) {
        let place = Place::new();
        fs::write(place.path(MODEL.0), MODEL.1).unwrap();
        for (path, bytes) in before {
            let path = place.path("run").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let root = place.path("").canonicalize().unwrap();
        let tracing = Tracing { calls: SAVING, all_threads: true, data: true, ..Tracing::default() };
        let force = if before.is_empty() { "" } else { "--force" };
        let line = format!("{} {DEVICE} --out run {force}", train(5, 2));
        let (output, threads) = tracing.run(&place, &program(&place, &line));
        assert!(output.status.success(), "{}", said(&output));
        let is_inside = |path: &PathBuf| path.starts_with(root.join("run"));
        let stray = threads[1..].iter().flatten().find(|call| call.paths(&root).iter().any(is_inside));
        assert!(stray.is_none(), "another thread than the first saves: {stray:?}");
        let record = Record {
            calls: Vec::new(),
            folders: HashSet::from([ROOT]),
            renames: Vec::new(),
            versions: BTreeMap::new(),
            relied_on: Vec::new(),
        };
        let mut reader =
            Reader { record, names: HashMap::new(), bytes: HashMap::new(), open: HashMap::new(), nodes: ROOT };
        if !before.is_empty() {
            reader.start_with(before);
        }
        threads[0].iter().for_each(|call| reader.read(call, &root));
        let mut record = reader.record;
        // The program relies on a file once it makes a call other than a sync, at the latest when it exits.
        let is_sync = |i: &usize| matches!(record.calls[*i][..], [Effect::Sync(_)]);
        for relied in &mut record.relied_on {
            relied.2 = (relied.2..record.calls.len()).find(|i| !is_sync(i)).map_or(record.calls.len(), |i| i + 1);
        }
        (record, place)
    }

    /// Returns the numbers of the calls that sync a file or folder that has changed.
    fn syncs(&self) -> Vec<usize> {
        let (mut changed, mut syncs) = (HashSet::new(), Vec::new());
        for (i, effect) in
            self.calls.iter().enumerate().flat_map(|(i, call)| call.iter().map(move |effect| (i, effect)))
        {
            match effect {
                Effect::Name(node, ..) | Effect::Bytes(node, _) => drop(changed.insert(*node)),
                Effect::Sync(node) if changed.remove(node) => syncs.push(i),
                Effect::Sync(_) => {}
            }
        }
        syncs
    }

    /// Returns what each name may refer to, and the bytes that each file may have, after the first `count` calls without `left_out`.
    fn options(&self, count: usize, left_out: Option<usize>) -> (Names, Files) {
        let mut names = Names::new();
        let mut files = Files::new();
        for effect in
            self.calls[..count].iter().enumerate().filter(|(i, _)| Some(*i) != left_out).flat_map(|(_, call)| call)
        {
            match effect {
                Effect::Name(folder, name, node) => {
                    names.entry((*folder, name.clone())).or_insert_with(|| vec![None]).push(*node);
                }
                Effect::Bytes(file, bytes) => {
                    files.entry(*file).or_insert_with(|| vec![Rc::default()]).push(bytes.clone());
                }
                Effect::Sync(node) => {
                    files.get_mut(node).into_iter().for_each(|options| drop(options.drain(..options.len() - 1)));
                    for ((folder, _), options) in &mut names {
                        if folder == node {
                            options.drain(..options.len() - 1);
                        }
                    }
                }
            }
        }
        for options in files.values_mut().filter(|options| options.len() > 1) {
            let (old, new) = (options[0].clone(), options[options.len() - 1].clone());
            let mut zeros = old[..old.len().min(new.len())].to_vec();
            zeros.resize(new.len(), 0);
            // After several writes, the intermediate ones are prefixes too.
            *options =
                vec![new.clone(), old.clone(), Rc::new(new[..old.len().midpoint(new.len())].to_vec()), Rc::new(zeros)];
        }
        for options in names.values_mut() {
            options.reverse();
            let mut seen = HashSet::new();
            options.retain(|option| seen.insert(*option));
        }
        (names, files)
    }

    /// Returns every state that a power loss after the first `count` calls may leave. If there are too many, those that differ from what the
    /// program sees in at most `places` places, and the one without anything that was not synced.
    fn states(&self, count: usize, left_out: Option<usize>, places: usize) -> Vec<State> {
        let (names, files) = self.options(count, left_out);
        let lengths: Vec<usize> = names.values().map(Vec::len).chain(files.values().map(Vec::len)).collect();
        let open: Vec<usize> = (0..lengths.len()).filter(|&i| lengths[i] > 1).collect();
        let product = open.iter().try_fold(1usize, |product, &i| product.checked_mul(lengths[i]));
        let mut choices = vec![vec![0; lengths.len()]];
        let all = product.is_some_and(|product| product <= MAX_STATES);
        for (done, &i) in open.iter().enumerate() {
            let with = |choice: &Vec<usize>, option| {
                let mut choice = choice.clone();
                choice[i] = option;
                choice
            };
            let is_extended =
                |choice: &&Vec<usize>| all || open[..done].iter().filter(|&&j| choice[j] > 0).count() < places;
            let more: Vec<_> = choices.iter().filter(is_extended).cloned().collect();
            choices.extend(more.iter().flat_map(|choice| (1..lengths[i]).map(|option| with(choice, option))));
        }
        // The one without anything that was not synced.
        choices.push(lengths.iter().map(|length| length - 1).collect());
        let index: HashMap<&Name, usize> = names.keys().enumerate().map(|(i, at)| (at, i)).collect();
        let state = |mut choice: Vec<usize>| {
            // No file system loses both names of a rename.
            for (_, from, to, node) in self.renames.iter().filter(|(call, ..)| *call < count && Some(*call) != left_out)
            {
                let (from, to) = (index[from], index[to]);
                let of = |i: usize| {
                    names.values().nth(i).and_then(|options| options.iter().position(|option| option == &Some(*node)))
                };
                match (of(from), of(to)) {
                    (Some(old), Some(new)) if choice[to] > new => choice[from] = old,
                    (None, Some(new)) if choice[to] > new => choice[to] = new,
                    // A folder has one name.
                    (Some(old), Some(new))
                        if choice[to] == new && choice[from] == old && self.folders.contains(node) =>
                    {
                        choice[from] = 0
                    }
                    _ => {}
                }
            }
            let chosen = names.iter().zip(&choice).filter_map(|((at, options), &i)| Some((at, options[i]?)));
            let tree: HashMap<_, _> = chosen.collect();
            let bytes: HashMap<Node, &Rc<Vec<u8>>> =
                files.iter().zip(&choice[names.len()..]).map(|((file, options), &i)| (*file, &options[i])).collect();
            let mut state = State::new();
            let mut waiting = vec![(ROOT, String::new())];
            while let Some((folder, path)) = waiting.pop() {
                for ((_, name), &node) in tree.iter().filter(|((parent, _), _)| *parent == folder) {
                    let path = format!("{path}/{name}");
                    if self.folders.contains(&node) {
                        waiting.push((node, path));
                    } else {
                        state.insert(
                            path[1..].to_string(),
                            bytes.get(&node).map_or(Rc::default(), |bytes| (*bytes).clone()),
                        );
                    }
                }
            }
            state
        };
        choices.into_iter().map(state).collect()
    }

    /// Returns the event files as they were synced by the calls before the last one of the first `count`.
    fn synced_events(&self, count: usize) -> Vec<Rc<Vec<u8>>> {
        let (mut synced, mut bytes) = (BTreeMap::new(), HashMap::new());
        for effect in self.calls[..count.saturating_sub(1)].iter().flatten() {
            match effect {
                Effect::Bytes(node, new) => drop(bytes.insert(*node, new.clone())),
                Effect::Sync(node) => drop(bytes.get(node).map(|bytes| synced.insert(*node, bytes.clone()))),
                Effect::Name(..) => {}
            }
        }
        let is_events = |bytes: &Rc<Vec<u8>>| read_events(bytes).is_ok_and(|events| !events.is_empty());
        synced.into_values().filter(is_events).collect()
    }

    /// Returns a file that the program relies on after the first `count` calls and that is not in `state`.
    fn missing(&self, count: usize, state: &State) -> Option<String> {
        let active = |relied: &&(String, usize, usize, usize)| relied.2 <= count && count <= relied.3;
        self.relied_on.iter().filter(active).find_map(|(path, version, ..)| {
            let newer = &self.versions[path][*version..];
            let is_there = state.get(path).is_some_and(|found| newer.contains(found));
            (!is_there).then(|| format!("after call {count}: {path} is lost, or older than its version {version}"))
        })
    }
}

/// Returns which of the synced event files is not in a state.
fn lost_events(synced: &[Rc<Vec<u8>>], state: &State) -> Option<String> {
    let is_there = |bytes: &&Rc<Vec<u8>>| state.values().any(|found| found.starts_with(bytes.as_slice()));
    let lost = synced.iter().find(|bytes| !is_there(bytes))?;
    Some(format!("{} bytes of events that were synced are lost", lost.len()))
}

/// Returns the effects of a call without the bytes.
fn shown(effects: &[Effect]) -> Vec<String> {
    let shown = |effect: &Effect| match effect {
        Effect::Name(folder, name, node) => format!("{folder}/{name} is {node:?}"),
        Effect::Bytes(file, bytes) => format!("{file} has {} bytes", bytes.len()),
        Effect::Sync(node) => format!("{node} is synced"),
    };
    effects.iter().map(shown).collect()
}

/// The files below the working folder, by path.
type State = BTreeMap<String, Rc<Vec<u8>>>;
/// What each name may refer to, what the program sees first.
type Names = BTreeMap<Name, Vec<Option<Node>>>;
/// The bytes that each file may have, those that the program sees first.
type Files = BTreeMap<Node, Vec<Rc<Vec<u8>>>>;

/// Returns only the event files of a state, or everything else: neither depends on the other.
fn part(mut state: State, events: bool) -> State {
    state.retain(|path, _| path.starts_with("run/tensorboard/") == events);
    state
}

/// Creates the files of a state in a folder, as links to files with the same bytes.
fn lay_out(state: &State, folder: &Path, pool: &Path) {
    for (path, bytes) in state {
        let digest: String = Sha256::digest(bytes.as_slice()).iter().map(|byte| format!("{byte:02x}")).collect();
        let (pooled, path) = (pool.join(digest), folder.join(path));
        if !pooled.exists() {
            fs::write(&pooled, bytes.as_slice()).unwrap();
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::hard_link(pooled, path).unwrap();
    }
}

/// Opens the run in a state. What opens must be one of the versions that were written.
fn open(record: &Record, state: &State, folder: &Path) -> Result<(), String> {
    let run = folder.join("run");
    let written = |path: &str| {
        let known = record.versions.get(path).zip(state.get(path)).is_some_and(|(known, found)| known.contains(found));
        if known { Ok(()) } else { Err(format!("{path} opens, but was never written like that")) }
    };
    if let Ok(opened) = Run::open(&run) {
        written("run/model.safetensors")?;
        let _ = (opened.history(), opened.summary());
    }
    let (mut newest, mut passed) = (None, 0);
    if let Ok(found) = Checkpoints::new(&run, 9).newest(&mut |_, _| passed += 1) {
        newest = found.map(|(path, _)| path.strip_prefix(folder).unwrap().to_str().unwrap().to_string());
    }
    newest.as_deref().map_or(Ok(()), written)?;
    for (path, bytes) in state.iter().filter(|(path, _)| !path.rsplit('/').next().unwrap().starts_with('.')) {
        assert!(read_bounded(&folder.join(path), 1 << 30).unwrap() == **bytes);
        let name = path.rsplit('/').next().unwrap();
        let opens = match name {
            "config.json" => RunConfig::parse(bytes).is_ok(),
            "summary.json" => Summary::parse(bytes).is_ok(),
            "history.jsonl" => parse_history(bytes).is_ok(),
            _ if path.contains("/checkpoints/") => Checkpoint::from_bytes(bytes).is_ok(),
            _ if name.ends_with(".safetensors") => weights::from_bytes(bytes).is_ok(),
            // These are not checked when they are read.
            _ => true,
        };
        if opens {
            written(path)?;
        }
    }
    Ok(())
}

#[test]
fn a_power_loss_leaves_a_whole_run_or_one_that_is_refused() {
    if !can_trace() {
        return;
    }
    let (record, place) = Record::new(&BTreeMap::new());
    let pool = tempfile::tempdir().unwrap();
    let (mut seen, mut tried) = (HashMap::new(), 0);
    for count in 0..=record.calls.len() {
        for state in record.states(count, None, 2) {
            tried += 1;
            let state = part(state, false);
            if let Some(reason) = record.missing(count, &state) {
                panic!("{reason}; there is {:?}", state.keys());
            }
            let folder = pool.path().join("states").join(seen.len().to_string());
            let opened = seen.entry(state).or_insert_with_key(|state| {
                lay_out(state, &folder, pool.path());
                let opened = open(&record, state, &folder);
                let _ = fs::remove_dir_all(&folder);
                opened
            });
            assert_eq!(*opened, Ok(()), "after call {count}");
        }
    }
    eprintln!("power loss: {} calls, {tried} states, {} different ones opened", record.calls.len(), seen.len());
    // Some of them are resumed and must end with the same bits.
    let mut states: Vec<State> = seen.into_keys().collect();
    states.sort_unstable();
    let samples = if all() { 60 } else { 6 };
    for i in 0..samples {
        let state = &states[(2 * i + 1) * states.len() / (2 * samples)];
        let lost = Place::new();
        fs::write(lost.path(MODEL.0), MODEL.1).unwrap();
        lay_out(state, &lost.path(""), pool.path());
        let resume = program(&lost, &format!("train --resume run --quiet --no-report {DEVICE}")).output().unwrap();
        if !resume.status.success() {
            assert!(!state.keys().any(|path| path.contains("/step-")), "{}: {:?}", said(&resume), state.keys());
            lost.run(&format!("{} {DEVICE} --no-report --out run --force", train(5, 2))).exits(0);
        }
        assert!(outcome(&lost, "run") == outcome(&place, "run"), "{:?}", state.keys());
    }
}

/// `--force` over an existing run: the old run or the new one, never a mix.
#[test]
fn a_power_loss_while_a_run_is_replaced_leaves_one_of_the_two() {
    if !can_trace() {
        return;
    }
    let new = Whole::new(DEVICE, 5, 2);
    let original = Place::new();
    fs::write(original.path(MODEL.0), MODEL.1).unwrap();
    original.run(&format!("{} {DEVICE} --out run", train(4, 3))).exits(0);
    let before = files(&original.path("run"));
    let (record, _) = Record::new(&before);
    let pool = tempfile::tempdir().unwrap();
    let (mut seen, mut olds) = (HashSet::new(), 0);
    let mut wrong = Vec::new();
    for count in 1..=record.calls.len() {
        for state in record.states(count, None, 1) {
            if !seen.insert(state.clone()) {
                continue;
            }
            let folder = pool.path().join("states").join(seen.len().to_string());
            lay_out(&state, &folder, pool.path());
            let run = folder.join("run");
            // Whoever opens a run finishes a replacement that was interrupted.
            let _ = Run::open(&run);
            let found = files(&run);
            let is_old = found == before;
            olds += usize::from(is_old);
            let events =
                |path: &String, bytes: &Vec<u8>| path.starts_with("tensorboard/") && before.get(path) == Some(bytes);
            let verdict = match Checkpoints::new(&run, 9).newest(&mut |_, _| ()) {
                _ if is_old => Ok(()),
                _ if found.iter().any(|(path, bytes)| events(path, bytes)) => Err("events of the old run".to_string()),
                Ok(Some(_)) => new.has(&run),
                found => Err(format!("no checkpoint: {found:?}")),
            };
            wrong.extend(
                verdict
                    .err()
                    .map(|reason| format!("after call {count}, {:?}: {reason}", shown(&record.calls[count - 1]))),
            );
            let _ = fs::remove_dir_all(&folder);
        }
    }
    eprintln!("power loss: {} states of a replacement, {olds} of them the old run", seen.len());
    assert!(
        wrong.is_empty(),
        "{} states are neither the old run nor the new one:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
}

/// The check itself: without any one of the syncs it finds a file that can be lost.
#[test]
fn a_sync_that_is_left_out_is_found() {
    if !can_trace() {
        return;
    }
    let (record, _) = Record::new(&BTreeMap::new());
    let syncs = record.syncs();
    let finds = |left_out: usize| {
        // Until another sync makes up for it.
        let moments = left_out..=(left_out + 40).min(record.calls.len());
        moments.into_iter().any(|count| {
            let events = record.synced_events(count);
            let is_wrong =
                |state: &State| record.missing(count, state).is_some() || lost_events(&events, state).is_some();
            record.states(count, Some(left_out), 2).iter().any(is_wrong)
        })
    };
    let unneeded: Vec<usize> = syncs.iter().copied().filter(|&i| !finds(i)).collect();
    let is_of_folder =
        |i: &&usize| matches!(record.calls[**i][0], Effect::Sync(node) if record.folders.contains(&node));
    eprintln!("power loss: {} syncs, {} of them of folders", syncs.len(), syncs.iter().filter(is_of_folder).count());
    // If a file is written again with the same bytes, either of the two may be there.
    let repeated: usize =
        record.versions.values().map(|versions| versions.windows(2).filter(|pair| pair[0] == pair[1]).count()).sum();
    assert!(
        unneeded.len() <= repeated && unneeded.iter().all(|i| is_of_folder(&i)),
        "no loss found without {:?}",
        unneeded
            .iter()
            .map(|&i| record.calls[i - 2..=i].iter().map(|call| shown(call)).collect())
            .collect::<Vec<Vec<_>>>()
    );
    assert!(syncs.len() > 20);
    // The first one is that of the folder that contains the run.
    assert!(matches!(record.calls[syncs[0]][0], Effect::Sync(ROOT)));
}

/// Events that were synced are there, and only the last record of an event file can be damaged.
#[test]
fn a_power_loss_keeps_the_events_that_were_synced() {
    if !can_trace() {
        return;
    }
    let (record, _) = Record::new(&BTreeMap::new());
    let mut seen = HashSet::new();
    for count in 0..=record.calls.len() {
        let events = record.synced_events(count);
        for state in record.states(count, None, 2) {
            let state = part(state, true);
            if let Some(reason) = lost_events(&events, &state) {
                panic!("after call {count}: {reason}; there is {:?}", state.keys());
            }
            for (path, bytes) in state {
                if seen.insert(bytes.clone())
                    && let Err(EventError::Record { offset, .. }) = read_events(&bytes)
                {
                    assert!(read_events(&bytes[..offset]).is_ok(), "{path}");
                }
            }
        }
    }
}
