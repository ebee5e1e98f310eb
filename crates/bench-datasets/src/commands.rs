//! `commands`: sentences and the functional form that each asks for.

mod grammar;

use std::collections::{BTreeSet, HashSet};

use grammar::{FUNCTIONS, Function, OPENERS, Values, WRAPPERS, values};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::{Dataset, Table, capitalised, number_word, random};

const N_TRAIN: usize = 1000;
const N_DEV: usize = 200;
const N_EVAL: usize = 200;
/// More attributes than this would make the form longer than a small model's patience.
const MAX_ATTRIBUTES: usize = 4;

/// Which attributes a form names.
type Composition = BTreeSet<&'static str>;

/// The compositions of one function, by the splits in which they may occur.
struct Compositions {
    train: Vec<Composition>,
    /// Held out from training for the development split.
    dev: Vec<Composition>,
    /// Held out from training for the evaluation split.
    eval: Vec<Composition>,
}

pub(crate) fn dataset() -> Dataset {
    let mut rng = random(10);
    let compositions: Vec<_> = FUNCTIONS.iter().map(|f| hold_out(f, &mut rng)).collect();
    let mut used = HashSet::new();
    let mut draw = |split: &'static str, n: usize, rng: &mut ChaCha8Rng| {
        let mut rows = Vec::with_capacity(n);
        while rows.len() < n {
            // Two rounds of all functions with known compositions, then two with held-out ones.
            let index = rows.len() % FUNCTIONS.len();
            let unseen = split != "train" && (rows.len() / FUNCTIONS.len()) % 2 == 1;
            let (function, all) = (&FUNCTIONS[index], &compositions[index]);
            let pool = match (unseen, split) {
                (false, _) => &all.train,
                (true, "dev") => &all.dev,
                (true, _) => &all.eval,
            };
            let composition = pool.choose(rng).expect("every function has compositions");
            let sentence = Sentence::draw(function, composition, split == "train", rng);
            if used.insert(sentence.input.to_lowercase()) {
                rows.push((sentence, unseen));
            }
        }
        rows.shuffle(rng);
        rows
    };
    let (eval, dev) = (draw("eval", N_EVAL, &mut rng), draw("dev", N_DEV, &mut rng));
    let train = draw("train", N_TRAIN, &mut rng);
    let unseen = |rows: &[(Sentence, bool)]| rows.iter().filter(|(_, unseen)| *unseen).count();
    let notes = notes(&compositions, [unseen(&eval), unseen(&dev)]);
    let samples = |split: &'static str, rows: Vec<(Sentence, bool)>| Table {
        name: split,
        holds: "sentence, its form, and in `meta` the function, attributes, pattern, cluster (the \
                sentence frame) and whether the composition occurs in train",
        rows: (1..).zip(rows).map(|(n, (s, unseen))| s.sample(split, n, unseen)).collect(),
    };
    Dataset {
        name: "commands",
        purpose: "Form: turn a sentence to a household and travel assistant into \
                  `function(attribute[value], attribute[value])`.",
        tables: vec![
            samples("eval", eval),
            samples("dev", dev),
            Table {
                name: "train",
                holds: "prompt and completion",
                rows: (1..)
                    .zip(train)
                    .map(|(n, (s, _))| {
                        json!({"id": format!("commands-train-{n:04}"), "input": s.input, "reference": s.form})
                    })
                    .collect(),
            },
        ],
        notes,
    }
}

/// Every composition that both the training and the evaluation frames can express, dealt out so
/// that each attribute of a held-out one is still learnt with the same function.
fn hold_out(function: &'static Function, rng: &mut ChaCha8Rng) -> Compositions {
    let expressed = expressible(function, function.eval);
    let mut all: Vec<_> = expressible(function, function.train)
        .into_iter()
        .filter(|c| expressed.contains(c))
        .collect();
    all.shuffle(rng);
    let (n_eval, n_dev) = ((all.len() / 4).max(2), (all.len() / 8).max(1));
    let mut held_out = Vec::new();
    let mut at = 0;
    while held_out.len() < n_eval + n_dev {
        let rest = all.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, c)| c);
        let learnt: Composition = rest.flatten().copied().collect();
        if all[at].len() > 1 && all[at].is_subset(&learnt) {
            held_out.push(all.remove(at));
        } else {
            at += 1;
        }
    }
    let dev = held_out.split_off(n_eval);
    Compositions { train: all, dev, eval: held_out }
}

fn expressible(function: &'static Function, frames: &[&'static str]) -> BTreeSet<Composition> {
    let conflicting =
        |c: &Composition| function.conflicts.iter().any(|(a, b)| c.contains(a) && c.contains(b));
    let mut all = BTreeSet::new();
    for frame in frames {
        for chosen in 0..1u32 << function.optional.len() {
            let mut composition: Composition = slots(frame).collect();
            let added = function.optional.iter().enumerate().filter(|(n, _)| chosen >> n & 1 == 1);
            composition.extend(added.map(|(_, (attribute, _))| *attribute));
            if composition.len() <= MAX_ATTRIBUTES && !conflicting(&composition) {
                all.insert(composition);
            }
        }
    }
    all
}

/// The attributes named in a template, in its order.
fn slots(template: &str) -> impl Iterator<Item = &str> {
    template.split('<').skip(1).filter_map(|rest| rest.split_once('>').map(|(slot, _)| slot))
}

struct Sentence {
    function: &'static Function,
    composition: Composition,
    /// The sentence with `<attribute>` for each value.
    pattern: String,
    frame: usize,
    input: String,
    form: String,
}

impl Sentence {
    fn draw(
        function: &'static Function,
        composition: &Composition,
        train: bool,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let frames = if train { function.train } else { function.eval };
        let can_add = |a: &&str| function.optional.iter().any(|(optional, _)| optional == a);
        let fitting: Vec<_> = (0..frames.len())
            .filter(|n| {
                let own: Composition = slots(frames[*n]).collect();
                own.is_subset(composition) && composition.difference(&own).all(can_add)
            })
            .collect();
        let frame = *fitting.choose(rng).expect("a composition comes from a frame");
        let own: Composition = slots(frames[frame]).collect();
        let added =
            function.optional.iter().filter(|(a, _)| composition.contains(a) && !own.contains(a));
        let pattern = phrase(frames[frame], added, function.name == "send_message", rng);

        let (mut input, mut form) = (pattern.clone(), Vec::new());
        for attribute in function.attributes.iter().filter(|a| composition.contains(*a)) {
            let taken: Vec<String> = form.clone();
            let (value, spoken) = loop {
                let (value, spoken) = draw_value(values(attribute), rng);
                // A journey does not end where it starts.
                if !taken.iter().any(|other| other.ends_with(&format!("[{value}]"))) {
                    break (value, spoken);
                }
            };
            input = input.replace(&format!("<{attribute}>"), &spoken);
            form.push(format!("{attribute}[{value}]"));
        }
        Self {
            function,
            composition: composition.clone(),
            pattern: capitalised(&pattern),
            frame,
            input: capitalised(&input),
            form: format!("{}({})", function.name, form.join(", ")),
        }
    }

    fn sample(&self, split: &str, n: usize, unseen: bool) -> Value {
        let attributes: Vec<_> =
            self.function.attributes.iter().filter(|a| self.composition.contains(*a)).collect();
        json!({
            "id": format!("commands-{split}-{n:03}"),
            "input": self.input,
            "reference": self.form,
            "meta": {
                "function": self.function.name,
                "attributes": attributes,
                "composition": if unseen { "unseen" } else { "seen" },
                "cluster": format!("{}-{}", self.function.name, self.frame + 1),
                "pattern": self.pattern,
            },
        })
    }
}

/// A frame with its modifiers, wrapped into a sentence. Modifiers of a message open the sentence:
/// after the message they could be taken for a part of it.
fn phrase<'a>(
    frame: &str,
    added: impl Iterator<Item = &'a (&'static str, &'static [&'static str])>,
    all_in_front: bool,
    rng: &mut ChaCha8Rng,
) -> String {
    let whole = frame.strip_suffix(['.', '?']);
    let (mut front, mut back): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let opens = all_in_front || rng.random_bool(0.3);
    for (attribute, ways) in added {
        // Only an imperative goes on with "and", and only once.
        let complete = whole.is_some() || back.iter().any(|way| continues(way));
        let free: Vec<_> = ways.iter().filter(|way| !(complete && continues(way))).collect();
        let way = free.choose(rng).expect("every modifier can be said without `and`");
        let opener = opens && front.len() < 2 && OPENERS.contains(attribute);
        if opener { &mut front } else { &mut back }.push(way);
    }
    front.shuffle(rng);
    back.shuffle(rng);
    back.sort_by_key(|way| continues(way));
    let words = [&[whole.unwrap_or(frame)], back.as_slice()].concat().join(" ");
    let sentence = match whole {
        Some(own) => format!("{words}{}", &frame[own.len()..]),
        None => WRAPPERS.choose(rng).expect("there are wrappers").replace("{}", &words),
    };
    if front.is_empty() {
        return sentence;
    }
    let sentence = sentence.trim_start_matches("hey, ");
    let stays = ["I ", "I'", "<"].iter().any(|start| sentence.starts_with(start));
    let rest = if stays { sentence.to_owned() } else { uncapitalised(sentence) };
    format!("{}, {rest}", front.join(" "))
}

fn continues(way: &str) -> bool {
    way.starts_with("and ")
}

fn uncapitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// A value as the form has it, and as the sentence says it.
fn draw_value(values: &Values, rng: &mut ChaCha8Rng) -> (String, String) {
    match values {
        Values::Plain(list) => {
            let value = list.choose(rng).expect("a list of values is not empty");
            ((*value).to_owned(), (*value).to_owned())
        }
        Values::Spoken(list) => {
            let (value, ways) = list.choose(rng).expect("a list of values is not empty");
            ((*value).to_owned(), (*ways.choose(rng).expect("a value can be said")).to_owned())
        }
        Values::Number(low, high) => {
            let number = rng.random_range(*low..=*high);
            let digits = number.to_string();
            let spoken = number_word(number).filter(|_| rng.random_bool(0.5));
            (digits.clone(), spoken.map_or(digits, str::to_owned))
        }
        Values::Time => draw_time(rng),
    }
}

fn draw_time(rng: &mut ChaCha8Rng) -> (String, String) {
    let hours: Vec<u32> = (6..=11).chain(13..=22).collect();
    let hour = *hours.choose(rng).expect("there are hours");
    let minute = *[0, 0, 15, 30, 30, 45, 10, 20].choose(rng).expect("there are minutes");
    let (clock, half) = (hour % 12, if hour < 12 { "am" } else { "pm" });
    let part = match hour {
        ..=11 => "in the morning",
        12..=17 => "in the afternoon",
        _ => "in the evening",
    };
    let word = |hour: u32| number_word(hour).expect("an hour of the clock has a word");
    let spoken = match rng.random_range(0..3) {
        0 if minute == 0 => format!("{clock} {half}"),
        0 => format!("{clock}:{minute:02} {half}"),
        1 => format!("{hour:02}:{minute:02}"),
        _ => match minute {
            0 => format!("{} o'clock {part}", word(clock)),
            15 => format!("quarter past {} {part}", word(clock)),
            30 => format!("half past {} {part}", word(clock)),
            // The next hour may fall into another part of the day.
            45 if hour != 11 && hour != 17 => format!("quarter to {} {part}", word(clock + 1)),
            _ => format!("{clock}:{minute:02} {part}"),
        },
    };
    (format!("{hour:02}:{minute:02}"), spoken)
}

fn notes(compositions: &[Compositions], [eval_unseen, dev_unseen]: [usize; 2]) -> String {
    let attributes: BTreeSet<_> = FUNCTIONS.iter().flat_map(|f| f.attributes).collect();
    let (train, dev, eval) = compositions.iter().fold((0, 0, 0), |(train, dev, eval), c| {
        (train + c.train.len(), dev + c.dev.len(), eval + c.eval.len())
    });
    let signatures: Vec<String> = FUNCTIONS
        .iter()
        .map(|f| format!("- `{}({})`\n", f.name, f.attributes.join(", ")))
        .collect();
    format!(
        "## The form\n\n\
         `function(attribute[value], attribute[value])`: attributes that the sentence does not mention \
         are left out; those that it does stand in the order of the function's signature, whatever the \
         order in the sentence, separated by a comma and a space. So there is exactly one right form \
         and `exact_match` is well defined. {n_functions} functions, {n_attributes} attributes:\n\n\
         {signatures}\n\
         Values are copied from the sentence, except: `time` is HH:MM on the 24-hour clock (`half past \
         seven in the evening` is `19:30`); `duration` is minutes (`an hour and a half` is `90 min`); \
         numbers are digits (`three` is `3`); `day` is `today`, `tomorrow` or a weekday in lower case; \
         `repeat` is `daily`, `weekdays`, `weekends` or `weekly`; `state` is `on` or `off`.\n\n\
         ## Splits\n\n\
         A *composition* is a function with a set of attributes. Of {n_compositions} compositions, \
         {train} occur in train, {eval} only in eval and {dev} only in dev; every attribute of a held-out \
         composition is still learnt with the same function. `meta.composition` says which: `seen` in \
         train or `unseen`; {eval_unseen} of the {N_EVAL} eval sentences and {dev_unseen} of the {N_DEV} dev sentences are unseen. The sentence frames of eval and dev \
         (they share them) do not occur in train; the wordings of added attributes (`at 7 pm`, `in the \
         kitchen`), the polite wrappers and the values are common to all splits.\n",
        signatures = signatures.concat(),
        n_functions = FUNCTIONS.len(),
        n_attributes = attributes.len(),
        n_compositions = train + dev + eval,
    )
}
