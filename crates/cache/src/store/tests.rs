use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

/// A value whose cost can change.
#[derive(Debug)]
struct Sized {
    name: u64,
    bytes: AtomicUsize,
}

impl Cost for Sized {
    fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

type Value = Arc<Sized>;

fn value(name: u64, bytes: usize) -> Value {
    Arc::new(Sized { name, bytes: AtomicUsize::new(bytes) })
}

fn memory(capacity: usize) -> Memory<Value> {
    Memory::new(Limits { capacity, largest: capacity })
}

fn cost(key: &[u8], value: &Value) -> usize {
    Memory::<Value>::OVERHEAD + key.len() + value.bytes()
}

#[derive(Debug, Clone)]
enum Op {
    Get(u8),
    Insert(u8, usize),
    Remove(u8),
    Resize(u8, usize),
    Limits(usize, usize),
    Sweep(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => any::<u8>().prop_map(Op::Get),
        6 => (any::<u8>(), 0..3000usize).prop_map(|(key, bytes)| Op::Insert(key, bytes)),
        1 => any::<u8>().prop_map(Op::Remove),
        1 => (any::<u8>(), 0..3000usize).prop_map(|(key, bytes)| Op::Resize(key, bytes)),
        1 => (2000..20_000usize, 1000..4000usize).prop_map(|(all, one)| Op::Limits(all, one)),
        1 => any::<u8>().prop_map(Op::Sweep),
    ]
}

/// What should be in the cache, and its limits.
struct Model {
    held: HashMap<Vec<u8>, Value>,
    limits: Limits,
}

impl Model {
    /// What went must have been there, and is not any longer.
    fn gone(&mut self, entries: Vec<Entry<Value>>) {
        for entry in entries {
            let held = self.held.remove(&*entry.key).expect("only what is held can go");
            assert!(Arc::ptr_eq(&held, &entry.value));
        }
    }

    fn apply(&mut self, memory: &Memory<Value>, op: Op, name: u64) {
        // Keys of different lengths.
        let bytes = |key: u8| vec![key; 1 + usize::from(key) % 7];
        match op {
            Op::Get(key) => {
                let found = memory.get(&bytes(key));
                let held = self.held.get(&bytes(key));
                assert_eq!(found.map(|value| value.name), held.map(|value| value.name));
            }
            Op::Insert(key, size) => {
                let (key, value) = (bytes(key), value(name, size));
                let fits = cost(&key, &value) <= self.limits.largest.min(self.limits.capacity);
                let inserted = memory.insert(&key, value.clone());
                self.gone(inserted.evicted);
                assert_eq!(inserted.stored, fits);
                let old = self.held.remove(&key);
                assert_eq!(inserted.replaced.map(|old| old.name), old.map(|old| old.name));
                if fits {
                    self.held.insert(key, value);
                }
            }
            Op::Remove(key) => {
                let removed = memory.remove(&bytes(key)).map(|value| value.name);
                assert_eq!(removed, self.held.remove(&bytes(key)).map(|value| value.name));
            }
            Op::Resize(key, size) => {
                if let Some(value) = self.held.get(&bytes(key)) {
                    value.bytes.store(size, Ordering::Relaxed);
                }
                self.gone(memory.resize(&bytes(key)));
            }
            Op::Limits(capacity, largest) => {
                self.limits = Limits { capacity, largest };
                self.gone(memory.set_limits(self.limits));
            }
            Op::Sweep(part) => {
                let part = u64::from(part % 8);
                let mut cursor = Cursor::default();
                let mut seen = HashSet::new();
                loop {
                    let keep = |value: &Value| {
                        seen.insert(value.name);
                        value.name % 8 != part
                    };
                    let swept = memory.sweep(&mut cursor, 3, keep);
                    assert!(swept.removed.iter().all(|entry| entry.value.name % 8 == part));
                    self.gone(swept.removed);
                    if swept.done {
                        break;
                    }
                }
                assert!(self.held.values().all(|value| seen.contains(&value.name)));
                assert!(self.held.values().all(|value| value.name % 8 != part));
            }
        }
    }

    fn check(&self, memory: &Memory<Value>) {
        let bytes: usize = self.held.iter().map(|(key, value)| cost(key, value)).sum();
        let counters = memory.counters();
        assert_eq!(counters.bytes, bytes, "accounting drifts");
        assert_eq!(counters.entries, self.held.len());
        assert!(bytes <= self.limits.capacity);
        let queues: usize = memory
            .lanes
            .iter()
            .map(|Aligned(lane)| {
                lane.small.load(Ordering::Relaxed) + lane.main.load(Ordering::Relaxed)
            })
            .sum();
        assert_eq!(queues, bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn it_is_a_bounded_map(ops in proptest::collection::vec(op(), 1..400)) {
        let limits = Limits { capacity: 20_000, largest: 4000 };
        let (memory, mut model) = (Memory::new(limits), Model { held: HashMap::new(), limits });
        for (name, op) in ops.into_iter().enumerate() {
            model.apply(&memory, op, name as u64);
            model.check(&memory);
        }
        for (key, held) in &model.held {
            assert_eq!(memory.get(key).map(|value| value.name), Some(held.name), "an entry is lost");
        }
    }
}

/// Numbers that are the same at every run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What a web cache sees: popularity by Zipf's law, and now and then a crawler that asks for many
/// things that nobody asks for again.
fn trace(requests: usize) -> Vec<u64> {
    let mut random = Random(7);
    let mut total = 0.0;
    let weights: Vec<f64> = (1..=20_000)
        .map(|rank| {
            total += 1.0 / f64::from(rank).powf(0.9);
            total
        })
        .collect();
    let mut unpopular = 1_000_000;
    let mut keys = Vec::with_capacity(requests);
    while keys.len() < requests {
        let wanted = random.unit() * total;
        keys.push(weights.partition_point(|sum| *sum < wanted) as u64);
        if random.next().is_multiple_of(5000) {
            keys.extend(unpopular..unpopular + 1500);
            unpopular += 1500;
        }
    }
    keys
}

/// Plain LRU of so many entries, by lazy deletion.
fn lru_hits(trace: &[u64], capacity: usize) -> usize {
    let (mut last, mut order) = (HashMap::new(), VecDeque::new());
    let mut hits = 0;
    for (time, key) in trace.iter().enumerate() {
        hits += usize::from(last.insert(*key, time).is_some());
        order.push_back((*key, time));
        while last.len() > capacity {
            let (key, time) = order.pop_front().unwrap();
            if last.get(&key) == Some(&time) {
                last.remove(&key);
            }
        }
    }
    hits
}

#[test]
fn it_keeps_more_of_what_is_asked_for_than_lru() {
    let trace = trace(400_000);
    for entries in [400, 2000] {
        let each = cost(&0u64.to_le_bytes(), &value(0, 1000));
        let memory = memory(entries * each);
        let mut hits = 0;
        for key in &trace {
            match memory.get(&key.to_le_bytes()) {
                Some(_) => hits += 1,
                None => drop(memory.insert(&key.to_le_bytes(), value(*key, 1000))),
            }
        }
        let lru = lru_hits(&trace, entries);
        println!("{entries} entries: {hits} hits, LRU {lru}, of {}", trace.len());
        assert!(hits * 100 > lru * 108, "{hits} hits, and LRU has {lru}");
        assert_eq!(memory.counters().entries, entries, "it is full");
    }
}

#[test]
fn what_is_too_large_is_refused_and_leaves_nothing_behind() {
    let memory = Memory::new(Limits { capacity: 10_000, largest: 2000 });
    assert!(memory.insert(b"a", value(1, 1000)).stored);
    let refused = memory.insert(b"a", value(2, 2000));
    assert!(!refused.stored);
    assert_eq!(refused.replaced.map(|old| old.name), Some(1));
    assert!(memory.get(b"a").is_none());
    assert_eq!(memory.bytes(), 0);

    // Larger than all there is, though one may be as large.
    let _ = memory.set_limits(Limits { capacity: 1000, largest: 5000 });
    assert!(!memory.insert(b"b", value(3, 2000)).stored);
    assert_eq!(memory.counters(), Counters { misses: 1, ..Counters::default() });
}

#[test]
fn one_value_may_take_nearly_everything() {
    let memory = memory(1_000_000);
    for key in 0..100u64 {
        assert!(memory.insert(&key.to_le_bytes(), value(key, 5000)).stored);
    }
    let large = memory.insert(b"large", value(1000, 990_000));
    assert!(large.stored);
    assert!(large.evicted.len() > 90);
    assert!(memory.get(b"large").is_some());
}

#[test]
fn a_value_is_removed_only_if_it_is_the_one_that_was_judged() {
    let memory = memory(100_000);
    let old = value(1, 10);
    let _ = memory.insert(b"a", old.clone());
    let _ = memory.insert(b"a", value(2, 10));
    assert!(memory.remove_if(b"a", |held| Arc::ptr_eq(held, &old)).is_none());
    assert_eq!(memory.remove_if(b"a", |held| held.name == 2).map(|value| value.name), Some(2));
    assert_eq!(memory.bytes(), 0);
}

#[test]
fn threads_share_it() {
    let memory = Arc::new(memory(200_000));
    let done = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (memory, done) = (memory.clone(), done.clone());
        move || {
            let mut cursor = Cursor::default();
            while !done.load(Ordering::Relaxed) {
                assert!(memory.bytes() <= 200_000);
                let _ = memory.sweep(&mut cursor, 50, |value| value.name % 97 != 0);
            }
        }
    });
    // In minus out is what must be held in the end.
    let worker = |seed: u64| {
        let memory = memory.clone();
        move || {
            let mut random = Random(seed);
            for _ in 0..30_000 {
                let key = (random.next() % 700).to_le_bytes();
                match random.next() % 8 {
                    0 => drop(memory.remove(&key)),
                    1 => {
                        if let Some(value) = memory.get(&key) {
                            let bytes = random.next() % 3000;
                            value.bytes.store(bytes as usize, Ordering::Relaxed);
                            drop(memory.resize(&key));
                        }
                    }
                    2 | 3 => {
                        let name = u64::from_le_bytes(key);
                        let _ = memory.insert(&key, value(name, (random.next() % 3000) as usize));
                    }
                    _ => {
                        let found = memory.get(&key);
                        let name = u64::from_le_bytes(key);
                        assert!(found.is_none_or(|value| value.name == name), "another's value");
                    }
                }
            }
        }
    };
    let workers: Vec<_> = (1..=4).map(|seed| std::thread::spawn(worker(seed))).collect();
    for worker in workers {
        worker.join().unwrap();
    }
    done.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    let _ = memory.sweep(&mut Cursor::default(), usize::MAX, |_| false);
    assert_eq!((memory.bytes(), memory.counters().entries), (0, 0));
}
