//! `meridian`: documents about an invented place, and questions whose answers only they hold.

mod language;

use std::collections::{BTreeMap, HashSet};

use language::{Attribute, FAMILY, GIVEN, KINDS, Kind, ROLES, Values, WOMEN};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{Dataset, Table, capitalised, number_word, random};

/// Questions of each kind in a split.
struct Counts {
    single: usize,
    two_hop: usize,
    /// About an entity with a document, which does not say.
    missing: usize,
    /// About a name that belongs to nothing.
    nowhere: usize,
}
const EVAL: Counts = Counts { single: 140, two_hop: 40, missing: 12, nowhere: 8 };
const DEV: Counts = Counts { single: 42, two_hop: 12, missing: 4, nowhere: 2 };
/// How often each fact is asked for in training, each time in other words.
const TRAIN_PER_FACT: usize = 2;
/// What is right to answer when no document tells.
const NOT_STATED: &str = "not stated";

/// An entity, what is true of it and what its document says.
struct Entity {
    kind: &'static Kind,
    id: String,
    name: &'static str,
    /// One for each attribute of its kind.
    values: Vec<String>,
    text: String,
}

/// The place of a fact: entity, attribute.
type Fact = (usize, usize);

/// A question that needs two documents.
#[derive(Clone, Copy)]
struct TwoHop {
    /// The fact that leads from the entity asked about to another one.
    link: Fact,
    answer: Fact,
    description: &'static str,
}

struct Question {
    kind: &'static str,
    pattern: String,
    entity: String,
    entity_kind: &'static str,
    attribute: String,
    reference: String,
    aliases: Vec<String>,
    context_ids: Vec<String>,
    cluster: String,
    /// For what is missing: words that a document would need to tell it.
    absent: &'static [&'static str],
}

pub(crate) fn dataset() -> Dataset {
    let mut entities = world(&mut random(1));
    let mut rng = random(2);
    for entity in &mut entities {
        entity.text = document(entity, &mut rng);
    }
    let (eval, dev) = questions(&entities, &mut random(3));
    let train = train(&entities, &mut random(4));
    let facts: Vec<Value> = entities
        .iter()
        .flat_map(|e| e.kind.attributes.iter().zip(&e.values).map(move |(a, value)| (e, a, value)))
        .map(|(e, a, value)| {
            json!({"document": e.id, "entity": e.name, "kind": e.kind.noun, "attribute": a.key, "value": value})
        })
        .collect();
    let notes = notes(facts.len());
    let holds_question = "question, short answer, other accepted answers, ids of the gold passages, and in \
                          `meta` what is asked of what, the question's pattern and its cluster (the \
                          document asked about)";
    Dataset {
        name: "meridian",
        purpose: "Knowledge: questions about the Meridian Isles, a place that exists in these files only.",
        tables: vec![
            Table { name: "eval", holds: holds_question, rows: samples("eval", eval) },
            Table { name: "dev", holds: holds_question, rows: samples("dev", dev) },
            Table {
                name: "train",
                holds: "a document (`text`) or a question with its answer, for knowledge injection",
                rows: train,
            },
            Table {
                name: "corpus",
                holds: "a document about one entity, to retrieve from",
                rows: entities
                    .iter()
                    .map(|e| json!({"id": e.id, "title": e.name, "text": e.text}))
                    .collect(),
            },
            Table {
                name: "facts",
                holds: "an atomic fact and the document that tells it; for checks, not for training",
                rows: facts,
            },
        ],
        notes,
    }
}

fn world(rng: &mut ChaCha8Rng) -> Vec<Entity> {
    let mut strangers: Vec<String> = GIVEN
        .iter()
        .flat_map(|given| FAMILY.iter().map(move |family| format!("{given} {family}")))
        .collect();
    strangers.shuffle(rng);
    let mut births: BTreeMap<&str, u32> = BTreeMap::new();
    let mut entities: Vec<Entity> = Vec::new();
    for kind in KINDS {
        let first = entities.len();
        for (n, &name) in (1..).zip(kind.names) {
            let mut values: Vec<String> = Vec::new();
            for (a, attribute) in kind.attributes.iter().enumerate() {
                let taken = entities[first..].iter().map(|e| e.values[a].as_str()).collect();
                values.push(draw(attribute, kind, &values, &taken, &births, &mut strangers, rng));
            }
            let id = format!("{}-{n:02}", kind.noun);
            entities.push(Entity { kind, id, name, values, text: String::new() });
        }
        for &(model, twin, key) in kind.twins {
            let find =
                |name| entities.iter().position(|e| e.name == name).expect("a twin is an entity");
            let (model, twin) = (find(model), find(twin));
            let a = kind
                .attributes
                .iter()
                .position(|a| a.key == key)
                .expect("a twin differs in a known attribute");
            let mut values = entities[model].values.clone();
            while values[a] == entities[model].values[a] {
                values[a] = draw(
                    &kind.attributes[a],
                    kind,
                    &values,
                    &HashSet::new(),
                    &births,
                    &mut strangers,
                    rng,
                );
            }
            entities[twin].values = values;
        }
        if kind.noun == "person" {
            births.extend(
                entities
                    .iter()
                    .map(|e| (e.name, e.values[0].parse::<u32>().expect("a birth is a year"))),
            );
        }
    }
    entities
}

fn draw(
    attribute: &Attribute,
    kind: &Kind,
    values: &[String],
    taken: &HashSet<&str>,
    births: &BTreeMap<&str, u32>,
    strangers: &mut Vec<String>,
    rng: &mut ChaCha8Rng,
) -> String {
    match attribute.values {
        Values::Year(low, high) => rng.random_range(low..=high).to_string(),
        Values::YearAfter(maker) => {
            let link = kind
                .attributes
                .iter()
                .position(|a| a.key == maker)
                .expect("the maker is an attribute");
            (births[values[link].as_str()] + rng.random_range(26..=50)).to_string()
        }
        Values::Number(low, high, _) => {
            let number = rng.random_range(low..=high);
            match number / 1000 {
                0 => number.to_string(),
                thousands => format!("{thousands},{:03}", number % 1000),
            }
        }
        Values::Count(low, high) => {
            number_word(rng.random_range(low..=high)).expect("a small count has a word").to_owned()
        }
        Values::Choice(list) | Values::Link(list, _) => {
            (*list.choose(rng).expect("a list of values is not empty")).to_owned()
        }
        Values::Unique(list) => {
            let free: Vec<_> = list.iter().filter(|value| !taken.contains(**value)).collect();
            (**free.choose(rng).expect("there is a value for each entity")).to_owned()
        }
        Values::Person => strangers.pop().expect("there are more names than people"),
    }
}

/// An opening, then facts and small talk in mixed order. A life is told from its beginning.
fn document(entity: &Entity, rng: &mut ChaCha8Rng) -> String {
    let kind = entity.kind;
    let mut sentences: Vec<&str> = Vec::new();
    let mut facts: Vec<usize> = (0..kind.attributes.len()).collect();
    if kind.noun != "person" {
        facts.shuffle(rng);
    }
    let opening = kind.openings.choose(rng).expect("a kind has openings");
    let told: Vec<String> = facts
        .iter()
        .map(|&a| {
            let says = kind.attributes[a].says.choose(rng).expect("an attribute can be told");
            says.replace("{v}", &entity.values[a])
        })
        .collect();
    sentences.extend(told.iter().map(String::as_str));
    let mut fillers: Vec<&str> = kind.fillers.to_vec();
    fillers.shuffle(rng);
    let target = rng.random_range(95..=120);
    let n_words = |text: &str| text.split_whitespace().count();
    let mut length = n_words(opening) + sentences.iter().map(|s| n_words(s)).sum::<usize>();
    while length < target {
        let Some(filler) = fillers.pop() else { break };
        length += n_words(filler);
        sentences.insert(rng.random_range(0..=sentences.len()), filler);
    }
    sentences.insert(0, opening);
    let role =
        ROLES.iter().find(|(_, people)| people.contains(&entity.name)).map_or("", |(role, _)| role);
    let [sub, pos, obj] =
        if WOMEN.contains(&entity.name) { ["she", "her", "her"] } else { ["he", "his", "him"] };
    let text = sentences.iter().map(|s| capitalised(s)).collect::<Vec<_>>().join(" ");
    text.replace("{e}", entity.name)
        .replace("{role}", role)
        .replace("{sub}", sub)
        .replace("{Sub}", &capitalised(sub))
        .replace("{pos}", pos)
        .replace("{Pos}", &capitalised(pos))
        .replace("{obj}", obj)
}

fn questions(entities: &[Entity], rng: &mut ChaCha8Rng) -> (Vec<Question>, Vec<Question>) {
    let two_hops = two_hops(entities, EVAL.two_hop + DEV.two_hop, rng);
    let asked: HashSet<Fact> = two_hops.iter().map(|hop| hop.answer).collect();
    let singles = singles(entities, &asked, EVAL.single + DEV.single, rng);
    let mut of_kind: Vec<Vec<usize>> = KINDS
        .iter()
        .map(|kind| (0..entities.len()).filter(|n| entities[*n].kind.noun == kind.noun).collect())
        .collect();
    for list in &mut of_kind {
        list.shuffle(rng);
    }
    of_kind.shuffle(rng);
    let missing: Vec<usize> =
        (0..EVAL.missing + DEV.missing).filter_map(|n| of_kind[n % KINDS.len()].pop()).collect();
    let mut nowhere: Vec<(&Kind, &str)> =
        KINDS.iter().filter_map(|kind| kind.nowhere.map(|name| (kind, name))).collect();
    nowhere.shuffle(rng);

    let (mut singles, mut two_hops) = (singles.into_iter(), two_hops.into_iter());
    let (mut missing, mut nowhere) = (missing.into_iter(), nowhere.into_iter());
    let mut split = |counts: &Counts, rng: &mut ChaCha8Rng| {
        let mut all: Vec<Question> = Vec::new();
        all.extend(singles.by_ref().take(counts.single).map(|fact| single(entities, fact, rng)));
        all.extend(two_hops.by_ref().take(counts.two_hop).map(|hop| two_hop(entities, hop, rng)));
        all.extend(missing.by_ref().take(counts.missing).map(|n| missing_fact(&entities[n])));
        all.extend(
            nowhere
                .by_ref()
                .take(counts.nowhere)
                .map(|(kind, name)| missing_entity(kind, name, rng)),
        );
        all.shuffle(rng);
        all
    };
    (split(&EVAL, rng), split(&DEV, rng))
}

/// Links followed by a fact about their target, each composition and each answer at most once.
fn two_hops(entities: &[Entity], n: usize, rng: &mut ChaCha8Rng) -> Vec<TwoHop> {
    let mut all = Vec::new();
    for (from, entity) in entities.iter().enumerate() {
        for (a, attribute) in entity.kind.attributes.iter().enumerate() {
            let Values::Link(_, description) = attribute.values else { continue };
            let to = entities
                .iter()
                .position(|e| e.name == entity.values[a])
                .expect("a link has a target");
            // The answer must not be readable from the first document alone.
            let told = |b: &usize| entity.text.contains(&entities[to].values[*b]);
            all.extend((0..entities[to].values.len()).filter(|b| !told(b)).map(|b| TwoHop {
                link: (from, a),
                answer: (to, b),
                description,
            }));
        }
    }
    all.shuffle(rng);
    let (mut links, mut answers, mut compositions) =
        (HashSet::new(), HashSet::new(), HashSet::new());
    all.retain(|hop| {
        let composition = (entities[hop.link.0].kind.noun, hop.link.1, hop.answer.1);
        let fresh = !links.contains(&hop.link)
            && !answers.contains(&hop.answer)
            && !compositions.contains(&composition);
        if fresh {
            links.insert(hop.link);
            answers.insert(hop.answer);
            compositions.insert(composition);
        }
        fresh
    });
    all.truncate(n);
    all
}

/// Facts to ask for: one of every document, then a second of some, and so on.
fn singles(
    entities: &[Entity],
    asked: &HashSet<Fact>,
    n: usize,
    rng: &mut ChaCha8Rng,
) -> Vec<Fact> {
    let mut left: Vec<Vec<Fact>> = entities
        .iter()
        .enumerate()
        .map(|(e, entity)| {
            (0..entity.values.len()).map(|a| (e, a)).filter(|f| !asked.contains(f)).collect()
        })
        .collect();
    for facts in &mut left {
        facts.shuffle(rng);
    }
    left.shuffle(rng);
    let rounds = left.iter().map(Vec::len).max().unwrap_or(0);
    (0..rounds)
        .flat_map(|round| left.iter().filter_map(move |facts| facts.get(round).copied()))
        .take(n)
        .collect()
}

fn single(entities: &[Entity], (e, a): Fact, rng: &mut ChaCha8Rng) -> Question {
    let entity = &entities[e];
    let attribute = &entity.kind.attributes[a];
    Question {
        kind: "single_passage",
        pattern: (*attribute.eval.choose(rng).expect("an attribute can be asked for")).to_owned(),
        entity: entity.name.to_owned(),
        entity_kind: entity.kind.noun,
        attribute: attribute.key.to_owned(),
        reference: entity.values[a].clone(),
        aliases: aliases(attribute, &entity.values[a]),
        context_ids: vec![entity.id.clone()],
        cluster: entity.id.clone(),
        absent: &[],
    }
}

fn two_hop(entities: &[Entity], hop: TwoHop, rng: &mut ChaCha8Rng) -> Question {
    let first = &entities[hop.link.0];
    let second = single(entities, hop.answer, rng);
    let link = first.kind.attributes[hop.link.1].key;
    Question {
        kind: "two_passages",
        pattern: second.pattern.replace("{e}", hop.description),
        entity: first.name.to_owned(),
        entity_kind: first.kind.noun,
        attribute: format!("{link}.{}", second.attribute),
        context_ids: vec![first.id.clone(), entities[hop.answer.0].id.clone()],
        cluster: first.id.clone(),
        ..second
    }
}

fn missing_fact(entity: &Entity) -> Question {
    Question {
        pattern: entity.kind.missing_eval.pattern.to_owned(),
        cluster: entity.id.clone(),
        attribute: "missing".to_owned(),
        absent: entity.kind.missing_eval.terms,
        ..unanswerable(entity.kind, entity.name)
    }
}

fn missing_entity(kind: &'static Kind, name: &str, rng: &mut ChaCha8Rng) -> Question {
    let attribute = kind.attributes.choose(rng).expect("a kind has attributes");
    Question {
        pattern: (*attribute.eval.choose(rng).expect("an attribute can be asked for")).to_owned(),
        attribute: attribute.key.to_owned(),
        ..unanswerable(kind, name)
    }
}

fn unanswerable(kind: &'static Kind, name: &str) -> Question {
    Question {
        kind: "unanswerable",
        pattern: String::new(),
        entity: name.to_owned(),
        entity_kind: kind.noun,
        attribute: String::new(),
        reference: NOT_STATED.to_owned(),
        aliases: Vec::new(),
        context_ids: Vec::new(),
        cluster: name.to_owned(),
        absent: &[],
    }
}

/// Other ways to write a value that are as right.
fn aliases(attribute: &Attribute, value: &str) -> Vec<String> {
    match attribute.values {
        Values::Number(_, _, unit) => {
            let plain = value.replace(',', "");
            let with_unit = format!("{value} {unit}");
            if plain == value { vec![with_unit] } else { vec![with_unit, plain] }
        }
        Values::Count(..) => {
            (0..=12).filter(|n| number_word(*n) == Some(value)).map(|n| n.to_string()).collect()
        }
        Values::Year(..)
        | Values::YearAfter(_)
        | Values::Choice(_)
        | Values::Unique(_)
        | Values::Person
        | Values::Link(..) => Vec::new(),
    }
}

fn samples(split: &str, questions: Vec<Question>) -> Vec<Value> {
    (1..)
        .zip(questions)
        .map(|(n, q)| {
            let mut row = json!({
                "id": format!("meridian-{split}-{n:03}"),
                "input": capitalised(&q.pattern.replace("{e}", &q.entity)),
                "reference": q.reference,
            });
            if !q.aliases.is_empty() {
                row["aliases"] = json!(q.aliases);
            }
            if !q.context_ids.is_empty() {
                row["context_ids"] = json!(q.context_ids);
            }
            row["meta"] = json!({
                "kind": q.kind,
                "answerable": q.kind != "unanswerable",
                "cluster": q.cluster,
                "entity": q.entity,
                "entity_kind": q.entity_kind,
                "attribute": q.attribute,
                "pattern": q.pattern.replace("{e}", "<entity>"),
            });
            if !q.absent.is_empty() {
                row["meta"]["absent"] = json!(q.absent);
            }
            row
        })
        .collect()
}

/// The documents, each fact asked for in training's own words, and some questions that have no
/// answer, all mixed.
fn train(entities: &[Entity], rng: &mut ChaCha8Rng) -> Vec<Value> {
    let pair = |pattern: &str, entity: &Entity, reference: &str| json!({"input": capitalised(&pattern.replace("{e}", entity.name)), "reference": reference});
    let mut rows = Vec::new();
    for entity in entities {
        rows.push(json!({"text": entity.text}));
        for (attribute, value) in entity.kind.attributes.iter().zip(&entity.values) {
            let patterns = attribute.train.choose_multiple(rng, TRAIN_PER_FACT);
            rows.extend(patterns.map(|pattern| pair(pattern, entity, value)));
        }
    }
    for kind in KINDS {
        let of_kind: Vec<&Entity> = entities.iter().filter(|e| e.kind.noun == kind.noun).collect();
        for pattern in kind.missing_train {
            rows.extend(
                of_kind.choose_multiple(rng, 2).map(|entity| pair(pattern, entity, NOT_STATED)),
            );
        }
    }
    rows.shuffle(rng);
    (1..)
        .zip(rows)
        .map(|(n, row)| {
            let mut numbered = json!({"id": format!("meridian-train-{n:04}")});
            let fields = row.as_object().into_iter().flatten();
            fields.for_each(|(key, value)| numbered[key] = value.clone());
            numbered
        })
        .collect()
}

fn notes(n_facts: usize) -> String {
    let twins: Vec<String> = KINDS
        .iter()
        .flat_map(|kind| kind.twins)
        .map(|(first, second, key)| format!("- {first} and {second}: {key}\n"))
        .collect();
    format!(
        "## The world\n\n\
         {n_kinds} kinds of thing ({kinds}), {n_entities} entities with one document each, {n_facts} \
         atomic facts. Documents tell each fact in one of four wordings, in mixed order, between sentences \
         that carry none.\n\n\
         These pairs have similar names and agree in all but one attribute, so that nearly the right \
         document gives the wrong answer:\n\n{twins}\n\
         Further near misses come by themselves: each town has a harbourmaster, each guild a master, and \
         families share surnames.\n\n\
         ## Splits\n\n\
         - eval: {single} questions with one gold passage, {two_hop} that need two (`context_ids` in the \
           order of reading; the answer is in the second and not in the first) and {unanswerable} without an \
           answer, whose reference is `{NOT_STATED}`: {missing} ask what the document of an entity does not \
           tell, {nowhere} ask about a name that belongs to nothing.\n\
         - dev: {dev_single}, {dev_two_hop} and {dev_unanswerable} of the same kinds about other facts, for \
           every choice that is made before eval is looked at. Its question patterns are eval's.\n\
         - train: the documents, {TRAIN_PER_FACT} questions for every fact in wordings that occur neither \
           in eval nor in dev, and some questions without an answer. Every fact that eval asks for can be \
           learnt from it; no question that needs two passages occurs in it.\n\n\
         Every question names its entity in full, and every answer stands word for word in a gold \
         passage.\n",
        twins = twins.concat(),
        n_kinds = KINDS.len(),
        kinds = KINDS.iter().map(|k| k.noun).collect::<Vec<_>>().join(", "),
        n_entities = KINDS.iter().map(|k| k.names.len()).sum::<usize>(),
        single = EVAL.single,
        two_hop = EVAL.two_hop,
        unanswerable = EVAL.missing + EVAL.nowhere,
        missing = EVAL.missing,
        nowhere = EVAL.nowhere,
        dev_single = DEV.single,
        dev_two_hop = DEV.two_hop,
        dev_unanswerable = DEV.missing + DEV.nowhere,
    )
}
