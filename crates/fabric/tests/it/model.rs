//! Documents against a map in memory, by random operations.

use std::collections::BTreeMap;

use proptest::prelude::*;
use selvedge_fabric::{Change, Expect, Fabric, WriteError};
use selvedge_model::Generation;

use crate::World;
use crate::world::{change, documents};

#[derive(Debug, Clone)]
enum Operation {
    Put { key: u8, expect: u8 },
    Delete { key: u8, expect: u8 },
    List,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (0..5_u8, 0..4_u8).prop_map(|(key, expect)| Operation::Put { key, expect }),
        3 => (0..5_u8, 0..4_u8).prop_map(|(key, expect)| Operation::Delete { key, expect }),
        1 => Just(Operation::List),
    ]
}

/// The documents that there should be, and every change that was made.
#[derive(Default)]
struct Model {
    documents: BTreeMap<String, (Generation, u64)>,
    changes: Vec<(String, Option<u64>, Generation)>,
}

impl Model {
    fn expect(&self, key: &str, kind: u8) -> (Expect, bool) {
        let current = self.documents.get(key).map(|(generation, _)| *generation);
        match kind {
            0 => (Expect::Absent, current.is_none()),
            1 => current.map_or((Expect::Any, true), |at| (Expect::Generation(at), true)),
            2 => (Expect::Generation(Generation::new(1, 1)), false),
            _ => (Expect::Any, true),
        }
    }
}

async fn apply(fabric: &dyn Fabric, model: &mut Model, value: u64, operation: &Operation) {
    match operation {
        Operation::Put { key, expect } => {
            let key = format!("k/{key}");
            let (expect, met) = model.expect(&key, *expect);
            match fabric.put(&key, value.to_string().into(), expect).await {
                Ok(generation) => {
                    assert!(met);
                    model.documents.insert(key.clone(), (generation, value));
                    model.changes.push((key, Some(value), generation));
                }
                Err(WriteError::Conflict { current, .. }) => {
                    assert!(!met);
                    let known = model.documents.get(&key).map(|(generation, _)| *generation);
                    assert_eq!(current, known);
                }
                Err(error) => panic!("{error}"),
            }
        }
        Operation::Delete { key, expect } => {
            let key = format!("k/{key}");
            let (expect, met) = model.expect(&key, *expect);
            let deleted = fabric.delete(&key, expect).await;
            assert_eq!(deleted.is_ok(), met, "{deleted:?}");
            if met && model.documents.remove(&key).is_some() {
                let number = model.changes.last().map_or(0, |(_, _, at)| at.number) + 1;
                let incarnation = fabric.incarnation().await.unwrap();
                model.changes.push((key, None, Generation::new(incarnation, number)));
            }
        }
        Operation::List => {
            let listing = fabric.list("k/").await.unwrap();
            let found: BTreeMap<_, _> = listing
                .documents
                .into_iter()
                .map(|document| {
                    let value = std::str::from_utf8(&document.value).unwrap().parse().unwrap();
                    (document.key, (document.generation, value))
                })
                .collect();
            assert_eq!(found, model.documents);
        }
    }
}

async fn check(operations: &[Operation]) {
    let world = World::embedded();
    let mut watch = world.fabric.watch("", None).await.unwrap();
    documents(&mut watch).await;
    let mut model = Model::default();
    for (value, operation) in operations.iter().enumerate() {
        apply(&*world.fabric, &mut model, value as u64, operation).await;
    }
    apply(&*world.fabric, &mut model, 0, &Operation::List).await;
    for (key, value, generation) in model.changes {
        match change(&mut watch).await {
            Change::Put(document) => {
                assert_eq!((document.key, document.generation), (key, generation));
                assert_eq!(document.value, value.unwrap().to_string());
            }
            Change::Delete { key: deleted, generation: at } => {
                assert_eq!((deleted, at, value), (key, generation, None));
            }
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn documents_behave_like_a_map(operations in prop::collection::vec(operation(), 1..60)) {
        tokio::runtime::Runtime::new().unwrap().block_on(check(&operations));
    }
}
