//! Reading an experiment file: shape first, then sense, every problem of both.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::node::{Kind, Misfit, Node, Reader, Tree, did_you_mean, span};
use super::problem::{Problem, Source, SpecError};
use super::{
    Arm, ChunkBy, EmbedderSource, EvalSet, Expand, Experiment, Features, Finetune, IndexBackend,
    InitLoraWeights, Judge, JudgeMode, Method, Mix, ModelSource, Objective, PassageSource,
    PromptTuningInit, Rag, Rerank, Shown, Strategy,
};

mod prompting;
mod tuning;

/// Parses an experiment file and checks that it makes sense. `stem` names the experiment when the
/// file does not; `environment` gives the value of `${NAME}`.
///
/// # Errors
/// Everything that is wrong, each with its place and what to do.
pub fn parse(
    name: &str,
    stem: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(Experiment, Source), Box<SpecError>> {
    match parse_on(name, stem, text, environment)? {
        (experiment, source, problems) if problems.is_empty() => Ok((experiment, source)),
        (_, source, problems) => Err(Box::new(source.error(problems))),
    }
}

/// As [`parse`], for a caller that goes on looking for problems elsewhere: an experiment that could
/// be read and makes no sense comes with what is wrong with it. Nothing may be computed from it.
///
/// # Errors
/// Everything that is wrong with a file that cannot be read.
pub fn parse_on(
    name: &str,
    stem: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(Experiment, Source, Vec<Problem>), Box<SpecError>> {
    let problems = RefCell::new(Vec::new());
    let root = expanded(name, text, environment, &problems)?;
    let experiment = shape(&root, &problems);
    let source = Source::new(name, text, Some(root));
    let mut problems = problems.into_inner();
    if let Some(mut experiment) = experiment {
        if experiment.name.is_empty() {
            stem.clone_into(&mut experiment.name);
        } else {
            Sense { experiment: &experiment, source: &source, problems: &mut problems }.name(
                &["name"],
                "experiment",
                &experiment.name,
            );
        }
        if let (true, Some(first)) =
            (experiment.compare.baseline.is_empty(), experiment.arms.first())
        {
            experiment.compare.baseline.clone_from(&first.name);
        }
        Sense { experiment: &experiment, source: &source, problems: &mut problems }.check();
        return Ok((experiment, source, problems));
    }
    Err(Box::new(source.error(problems)))
}

/// What the decision needs and the run does not measure, once prices have been read from their file.
pub fn unmeasured(experiment: &Experiment, source: &Source) -> Vec<Problem> {
    let mut problems = Vec::new();
    Sense { experiment, source, problems: &mut problems }.constraints();
    problems
}

/// The tree of a file with every `${NAME}` replaced; one that is not set is a problem.
pub(super) fn expanded(
    name: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &RefCell<Vec<Problem>>,
) -> Result<Node, Box<SpecError>> {
    let mut root = match tree(text, "the file must be YAML") {
        Ok(root) => root,
        Err(problem) => return Err(Box::new(Source::new(name, text, None).error(vec![problem]))),
    };
    root.for_each_text(&mut |value, span| expand(value, span, environment, problems));
    Ok(root)
}

/// Whether the file is a map of keys; a problem otherwise.
pub(super) fn is_map(root: &Node, problems: &RefCell<Vec<Problem>>) -> bool {
    let is_map = matches!(root.kind, Kind::Map(_));
    if !is_map {
        let problem =
            Misfit::into_problem(serde::de::Error::custom("the file must be a map of keys"));
        problems.borrow_mut().push(problem);
    }
    is_map
}

/// The tree of a YAML text.
pub(super) fn tree(text: &str, help: &str) -> Result<Node, Problem> {
    // YAML 1.1 reads `n` and `on` as truth values; a model may be called `n`.
    let options = serde_saphyr::options! { strict_booleans: true };
    match serde_saphyr::from_str_with_options::<Tree>(text, options) {
        Ok(Tree(node)) => Ok(node),
        Err(error) => {
            let (message, remedy) = in_plain_words(&error.without_snippet().to_string());
            Err(Problem {
                message,
                label: "here".into(),
                help: Some(remedy.unwrap_or(help).into()),
                span: error.location().map_or((0, 0).into(), span),
            })
        }
    }
}

/// The YAML library's message for its own users, said to those of the file, and the remedy.
fn in_plain_words(message: &str) -> (String, Option<&'static str>) {
    let begun = |words: &str| message.find(words).map(|at| &message[at + words.len()..]);
    if let Some(rest) = begun("duplicate mapping key") {
        let key = rest.strip_prefix(": ").and_then(|rest| rest.split(", set Duplicate").next());
        let key = key.map_or_else(|| "a key".into(), |key| format!("the key `{key}`"));
        return (format!("{key} stands twice in one map"), Some("keep one of them"));
    }
    if begun("budget breached").is_some() {
        let help = "keep data in files of their own and name them; look for aliases (`*name`) that multiply";
        return ("the file is too large for an experiment".into(), Some(help));
    }
    if begun("recursive references").is_some() {
        let help = "write out what the alias (`*name`) stands for";
        return ("an alias refers to what it is part of".into(), Some(help));
    }
    (message.into(), None)
}

/// Replaces `${NAME}` by the environment's value.
fn expand(
    value: &mut String,
    span: miette::SourceSpan,
    environment: &dyn Fn(&str) -> Option<String>,
    problems: &RefCell<Vec<Problem>>,
) {
    let mut from = 0;
    while let Some(start) = value[from..].find("${").map(|at| at + from) {
        let Some(end) = value[start..].find('}').map(|at| at + start) else { return };
        let variable = value[start + 2..end].to_owned();
        if let Some(found) = environment(&variable) {
            value.replace_range(start..=end, &found);
            from = start + found.len();
        } else {
            problems.borrow_mut().push(Problem {
                message: format!("the environment variable `{variable}` is not set"),
                label: "used here".into(),
                help: Some(format!("export {variable}=…")),
                span,
            });
            from = end;
        }
    }
}

/// Reads the parts one by one, so that a misfit in one does not hide those in the others, and then
/// the whole.
fn shape(root: &Node, problems: &RefCell<Vec<Problem>>) -> Option<Experiment> {
    let reader = |node| Reader { node, problems };
    if let Kind::Map(entries) = &root.kind {
        for (key, _, node) in entries {
            match (key.as_str(), &node.kind) {
                ("arms", Kind::List(items)) => {
                    for item in items {
                        reader(item).read::<Arm>();
                    }
                }
                ("eval_sets", Kind::List(items)) => {
                    for item in items {
                        reader(item).read::<EvalSet>();
                    }
                }
                ("models", Kind::Map(entries)) => {
                    for (.., item) in entries {
                        reader(item).read::<ModelSource>();
                    }
                }
                ("judge", _) => drop(reader(node).read::<Option<Judge>>()),
                ("compare", _) => drop(reader(node).read::<super::Compare>()),
                ("generate", _) => drop(reader(node).read::<super::Generate>()),
                ("run", _) => drop(reader(node).read::<super::Run>()),
                _ => {}
            }
        }
    } else {
        let problem =
            Misfit::into_problem(serde::de::Error::custom("an experiment is a map of keys"));
        problems.borrow_mut().push(problem);
        return None;
    }
    reader(root).read()
}

/// Whether a number stands twice.
fn repeats(numbers: &[u32]) -> bool {
    numbers.iter().collect::<BTreeSet<_>>().len() < numbers.len()
}

/// The conditions that types cannot say.
struct Sense<'a> {
    experiment: &'a Experiment,
    source: &'a Source,
    problems: &'a mut Vec<Problem>,
}

impl Sense<'_> {
    fn check(mut self) {
        let experiment = self.experiment;
        if experiment.version != 1 {
            let message = format!("version {} of the file layout is not known", experiment.version);
            self.add(&["version"], message, "here", "this program reads `version: 1`");
        }
        self.models();
        self.sets();
        self.arms();
        self.rewards();
        self.judge();
        self.settings();
        self.break_even();
        self.gates();
        self.sweep();
        self.embedder();
        self.effort();
    }

    fn add(
        &mut self,
        path: &[&str],
        message: impl Into<String>,
        label: &str,
        help: impl Into<String>,
    ) {
        self.problems.push(self.source.problem(path, message, label, help));
    }

    /// `name` must be one of `known`.
    fn known(&mut self, path: &[&str], what: &str, name: &str, known: &[&str]) {
        if !known.contains(&name) {
            self.add(
                path,
                format!("there is no {what} `{name}`"),
                "not declared",
                did_you_mean(name, known),
            );
        }
    }

    fn models(&mut self) {
        let classifies = |arm: &Arm| matches!(arm.strategy, Strategy::Features(_));
        let arms = &self.experiment.arms;
        let asks_none = !arms.is_empty() && arms.iter().all(classifies);
        if self.experiment.models.is_empty() && !asks_none {
            let help = "for example `small: { catalog: smollm2-135m-instruct }`";
            self.add(&["models"], "no model is declared", "empty", help);
        }
        for (name, model) in &self.experiment.models {
            if let ModelSource::Endpoint(endpoint) = model
                && !endpoint.base_url.starts_with("http://")
                && !endpoint.base_url.starts_with("https://")
            {
                let path = ["models", name, "endpoint", "base_url"];
                let message = format!("`{}` is not an address", endpoint.base_url);
                self.add(&path, message, "here", "for example `http://localhost:8080/v1`");
            }
        }
    }

    fn sets(&mut self) {
        let sets = &self.experiment.eval_sets;
        if sets.is_empty() {
            self.add(
                &["eval_sets"],
                "no eval set is declared",
                "empty",
                "give at least one `name` and `path`",
            );
        }
        let mut seen = BTreeSet::new();
        for (index, set) in sets.iter().enumerate() {
            let index = index.to_string();
            let at = |key| ["eval_sets", &index, key];
            self.name(&at("name"), "eval set", &set.name);
            if !seen.insert(&set.name) {
                let message = format!("two eval sets are called `{}`", set.name);
                self.add(
                    &at("name"),
                    message,
                    "already used above",
                    "tables and charts are keyed by set name",
                );
            }
            if set.scorers.is_empty() {
                let margin = self.experiment.compare.margin;
                let message = if margin > 0.0 {
                    format!(
                        "eval set `{}` has no scorer, so that the margin {margin} is of no metric",
                        set.name
                    )
                } else {
                    format!("eval set `{}` has no scorer", set.name)
                };
                self.add(&at("scorers"), message, "empty", "for example `scorers: [exact_match]`");
            }
            let mut names = BTreeSet::new();
            for scorer in &set.scorers {
                if !names.insert(scorer.name()) {
                    let message = format!("scorer `{}` stands twice", scorer.name());
                    self.add(&at("scorers"), message, "here", "a scorer fills one column");
                }
            }
            if let Some(other) = &set.adapters_of {
                self.adapters_of(&index, set, other);
            }
            if [set.limit, set.max_tokens, set.train_limit].contains(&Some(0)) {
                let message = format!("eval set `{}` asks for nothing", set.name);
                self.add(
                    &["eval_sets", &index],
                    message,
                    "a limit of 0",
                    "leave it out, or give at least 1",
                );
            }
        }
    }

    /// The set whose adapters are borrowed stands earlier, has its own, and is answered by the same
    /// fine-tuned arms.
    fn adapters_of(&mut self, index: &str, set: &EvalSet, other: &str) {
        let experiment = self.experiment;
        let path = ["eval_sets", index, "adapters_of"];
        let mut sets = experiment.eval_sets.iter();
        let Some(lender) =
            sets.by_ref().take_while(|s| s.name != set.name).find(|s| s.name == other)
        else {
            let message = format!("set `{}` borrows the adapters of `{other}`", set.name);
            let help = "name a set that stands earlier";
            return self.add(&path, message, "no earlier set has this name", help);
        };
        if lender.adapters_of.is_some() {
            let message = format!("set `{other}` has no adapters of its own");
            self.add(&path, message, "here", "name the set that it borrows them from");
        }
        let is_tuned = |arm: &Arm| matches!(arm.strategy, Strategy::Finetune(_));
        for arm in &experiment.arms {
            let trains = match &arm.strategy {
                Strategy::Compose(parts) => {
                    experiment.arms.iter().any(|part| parts.contains(&part.name) && is_tuned(part))
                }
                Strategy::Prompt(_)
                | Strategy::Rag(_)
                | Strategy::Finetune(_)
                | Strategy::Features(_) => is_tuned(arm),
            };
            let on = |set: &EvalSet| arm.on.as_ref().is_none_or(|on| on.contains(&set.name));
            if trains && on(set) && !on(lender) {
                let message = format!(
                    "arm `{}` answers set `{}` and is not trained on `{other}`",
                    arm.name, set.name
                );
                let help = "give the arm both sets in `on`, or neither";
                self.add(&path, message, "whose adapters it needs", help);
            }
        }
    }

    fn name(&mut self, path: &[&str], what: &str, name: &str) {
        let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            let message = format!("`{name}` cannot name an {what}");
            self.add(path, message, "here", "use letters, digits, `_`, `-`, `+` and `.`");
        }
    }

    fn arms(&mut self) {
        let experiment = self.experiment;
        let models: Vec<&str> = experiment.models.keys().map(String::as_str).collect();
        let sets: Vec<&str> = experiment.eval_sets.iter().map(|set| set.name.as_str()).collect();
        let names: Vec<&str> = experiment.arms.iter().map(|arm| arm.name.as_str()).collect();
        if names.is_empty() {
            self.add(
                &["arms"],
                "no arm is declared",
                "empty",
                "give at least one `name`, `model` and `strategy`",
            );
        }
        for (index, arm) in experiment.arms.iter().enumerate() {
            let i = index.to_string();
            self.name(&["arms", &i, "name"], "arm", &arm.name);
            if names[..index].contains(&arm.name.as_str()) {
                let message = format!("two arms are called `{}`", arm.name);
                let help = "tables and charts are keyed by arm name";
                self.add(&["arms", &i, "name"], message, "already used above", help);
            }
            self.answerer(&i, arm, &models);
            self.likelihood(&i, arm);
            for (position, set) in arm.on.iter().flatten().enumerate() {
                self.known(&["arms", &i, "on", &position.to_string()], "eval set", set, &sets);
            }
            if arm.on.as_ref().is_some_and(Vec::is_empty) {
                self.add(
                    &["arms", &i, "on"],
                    "the arm runs on no eval set",
                    "empty",
                    "leave `on` out for all",
                );
            }
            self.strategy(&i, arm, &names);
            self.arm_constraint(&i, arm);
        }
    }

    /// Every arm has a model, but those that answer with the embedder.
    fn answerer(&mut self, i: &str, arm: &Arm, models: &[&str]) {
        if !matches!(arm.strategy, Strategy::Features(_)) {
            if arm.model.is_empty() {
                let help = "add `model: …` here";
                return self.add(&["arms", i], "`model` is missing", "here", help);
            }
            return self.known(&["arms", i, "model"], "model", &arm.model, models);
        }
        if !arm.model.is_empty() {
            let message = format!("arm `{}` answers with the embedder, not with a model", arm.name);
            let help = "leave `model` out; `embedder:` says what embeds";
            self.add(&["arms", i, "model"], message, "here", help);
        }
        if models.contains(&Arm::EMBEDDER) {
            let message = "a model has the name under which `features` arms are recorded";
            self.add(&["models", Arm::EMBEDDER], message, "here", "call it otherwise");
        }
    }

    /// The settings of an arm that classifies embeddings.
    fn features(&mut self, i: &str, arm: &Arm, features: &Features) {
        self.needs_train(i, arm, "classifiers over embeddings");
        let path = ["arms", i, "strategy", "features", "C"];
        let wrong = |c: &f64| !(c.is_finite() && *c > 0.0);
        if features.c.is_empty() || features.c.iter().any(wrong) {
            let help = "give numbers above 0, for example `C: [0.1, 1, 10]`";
            self.add(&path, "`C` cannot fit a classifier", "here", help);
        }
        if features.limit == Some(0) {
            let path = ["arms", i, "strategy", "features", "limit"];
            let help = "at least 2, or leave it out";
            self.add(&path, "`limit` leaves nothing to learn", "here", help);
        }
        for set in self.sets_of(arm) {
            if set.dev.is_none() && features.c.len() > 1 {
                let message = format!(
                    "arm `{}` chooses its penalty on dev samples, and set `{}` has none",
                    arm.name, set.name
                );
                let help = "give the set `dev: …jsonl`, or the arm one strength: `C: [1]`";
                self.add(&["arms", i], message, "here", help);
            }
        }
        if arm.constraint.is_some() {
            let message = format!("arm `{}` can answer with its labels only", arm.name);
            self.add(&["arms", i, "constraint"], message, "here", "leave it out");
        }
    }

    /// The settings of a soft prompt, which our own decoder serves.
    fn soft_prompt(&mut self, i: &str, finetune: &Finetune) {
        let text = finetune.prompt_tuning_init_text.as_deref().unwrap_or_default();
        let wants = finetune.prompt_tuning_init == PromptTuningInit::Text;
        if wants == text.trim().is_empty() {
            let (key, message) = if wants {
                ("prompt_tuning_init", "`prompt_tuning_init: text` has no text to start from")
            } else {
                ("prompt_tuning_init_text", "the text to start from is not used")
            };
            let help =
                "give `prompt_tuning_init: text` and `prompt_tuning_init_text: …`, or neither";
            self.add(&["arms", i, "strategy", "finetune", key], message, "here", help);
        }
        if finetune.objective != Objective::Sft {
            let message =
                format!("a soft prompt is not trained by `{}`", finetune.objective.name());
            let path = ["arms", i, "strategy", "finetune", "objective"];
            self.add(&path, message, "here", "choose `method: lora`, or `objective: sft`");
        }
    }

    /// An endpoint says how likely its own words are, not how likely given ones are.
    fn likelihood(&mut self, i: &str, arm: &Arm) {
        if let Some(ModelSource::Endpoint(_)) = self.experiment.models.get(&arm.model)
            && let Some(set) = self.sets_of(arm).iter().find(|set| set.likelihood().is_some())
        {
            let message = format!(
                "set `{}` scores choices by likelihood, and the model of arm `{}` is behind an endpoint",
                set.name, arm.name
            );
            let help = "take a local model, give the arm `on: [other sets]`, or score `choice: { by: answer }`";
            self.add(&["arms", i, "model"], message, "shows no likelihood", help);
        }
    }

    fn strategy(&mut self, i: &str, arm: &Arm, names: &[&str]) {
        match &arm.strategy {
            Strategy::Prompt(prompt) => {
                if prompt.num_fewshot > 0 {
                    self.needs_train(i, arm, "few-shot examples");
                }
                self.prompting(i, arm, prompt);
            }
            Strategy::Rag(rag) => {
                let at = |key| ["arms", i, "strategy", "rag", key];
                if rag.top_k == 0 {
                    self.add(&at("top_k"), "`top_k` is 0", "retrieves nothing", "give at least 1");
                }
                self.retrieving(i, arm, rag);
                self.rag_sweep(i, arm, rag);
                self.retrieval(i, rag);
                for set in self.sets_of(arm) {
                    if set.corpus.is_empty() && set.train.is_none() {
                        let message = format!(
                            "arm `{}` retrieves, but set `{}` has neither `corpus` nor `train`",
                            arm.name, set.name
                        );
                        let help = "give the set a corpus, or the arm `on: [sets with one]`";
                        self.add(&["arms", i], message, "here", help);
                    }
                }
            }
            Strategy::Finetune(finetune) => {
                match &finetune.mix {
                    None => self.needs_lesson(i, arm),
                    Some(mix) => self.mix(i, arm, mix),
                }
                self.finetune_sweep(i, arm, finetune);
                self.scale(i);
                if let Some(raft) = &finetune.raft {
                    if finetune.mix.is_some() {
                        let help = "keep one of them";
                        let path = ["arms", i, "strategy", "finetune", "mix"];
                        self.add(&path, "`mix` does not go with `raft`", "here", help);
                    }
                    self.raft(i, arm, finetune, raft);
                }
                if finetune.method == Method::SoftPrompt {
                    self.soft_prompt(i, finetune);
                }
                if let Some(ModelSource::Endpoint(_)) = self.experiment.models.get(&arm.model) {
                    let message =
                        format!("arm `{}` fine-tunes a model behind an endpoint", arm.name);
                    let help = "only a local model (catalog, path, hub) can be trained";
                    self.add(&["arms", i, "model"], message, "not local", help);
                }
                let at = |key| ["arms", i, "strategy", "finetune", key];
                for (key, wrong, need) in [
                    ("lora_r", finetune.lora_r == 0, "at least 1"),
                    (
                        "lora_alpha",
                        finetune.lora_alpha <= 0.0,
                        "more than 0; twice `lora_r` is usual",
                    ),
                    ("lora_dropout", !(0.0..1.0).contains(&finetune.lora_dropout), "0 to below 1"),
                    ("num_epochs", finetune.num_epochs == 0, "at least 1"),
                    (
                        "learning_rate",
                        finetune.learning_rate <= 0.0,
                        "more than 0, for example 2.0e-4",
                    ),
                    ("warmup_ratio", !(0.0..1.0).contains(&finetune.warmup_ratio), "0 to below 1"),
                    ("micro_batch_size", finetune.micro_batch_size == 0, "at least 1"),
                    (
                        "gradient_accumulation_steps",
                        finetune.gradient_accumulation_steps == 0,
                        "at least 1",
                    ),
                    ("sequence_len", finetune.sequence_len < 8, "at least 8"),
                    ("max_grad_norm", finetune.max_grad_norm < 0.0, "0 or more"),
                    ("weight_decay", finetune.weight_decay < 0.0, "0 or more"),
                    (
                        "target_modules",
                        finetune.target_modules.is_empty(),
                        "`all-linear` or names of projections",
                    ),
                    ("seeds", finetune.seeds.is_empty(), "at least one, for example [0]"),
                    ("limit", finetune.limit == Some(0), "at least 1, or leave it out"),
                    (
                        "train_sizes",
                        !finetune.train_sizes.is_empty()
                            && (finetune.train_sizes.contains(&0)
                                || finetune.limit.is_some()
                                || finetune.mix.is_some()
                                || repeats(&finetune.train_sizes)),
                        "numbers of rows above 0, each once, and neither `limit` nor `mix` beside them",
                    ),
                    ("last_layers", finetune.last_layers == 0, "at least 1"),
                    (
                        "num_virtual_tokens",
                        finetune.num_virtual_tokens == 0,
                        "at least 1; 8 to 100 are usual",
                    ),
                    (
                        "desirable_weight",
                        [finetune.desirable_weight, finetune.undesirable_weight]
                            .iter()
                            .any(|weight| !(weight.is_finite() && *weight >= 0.0)),
                        "`desirable_weight` and `undesirable_weight` of 0 or more",
                    ),
                    (
                        "micro_batch_size",
                        finetune.objective == Objective::Kto && finetune.micro_batch_size == 1,
                        "at least 2: `kto` measures its reference point on the other rows of a batch",
                    ),
                    (
                        "objective",
                        finetune.objective == Objective::Reward,
                        "another one: a reward model does not answer; declare it under `rewards:` and name it in `best_of`",
                    ),
                    ("beta", finetune.beta.is_nan() || finetune.beta <= 0.0, "more than 0"),
                    (
                        "loraplus_lr_ratio",
                        finetune.loraplus_lr_ratio.is_nan() || finetune.loraplus_lr_ratio <= 0.0,
                        "more than 0; 16 is usual, 1 is plain LoRA",
                    ),
                    (
                        "neftune_noise_alpha",
                        finetune.neftune_noise_alpha.is_nan() || finetune.neftune_noise_alpha < 0.0,
                        "0 or more; 5 is usual",
                    ),
                    ("eval_steps", finetune.eval_steps == Some(0), "at least 1, or leave it out"),
                    ("evals_per_epoch", finetune.evals_per_epoch == 0, "at least 1"),
                    (
                        "early_stopping_patience",
                        finetune.early_stopping_patience == Some(0),
                        "at least 1, or leave it out",
                    ),
                    (
                        "load_best_model_at_end",
                        finetune.needs_dev()
                            && self.sets_of(arm).iter().any(|set| set.dev.is_none()),
                        "every set of the arm a `dev` file: the validation loss is measured on it",
                    ),
                    (
                        "method",
                        !finetune.method.is_low_rank() && finetune.has_low_rank_settings(),
                        "`lora` or `qlora`: `use_dora`, `use_rslora`, `init_lora_weights`, `loraplus_lr_ratio` and `lora_dropout` are settings of adapters",
                    ),
                    (
                        "init_lora_weights",
                        finetune.use_dora && finetune.init_lora_weights == InitLoraWeights::Pissa,
                        "`pissa` or `use_dora`, not both: each changes what the other starts from",
                    ),
                ] {
                    if wrong {
                        self.add(
                            &at(key),
                            format!("`{key}` cannot train"),
                            "here",
                            format!("give {need}"),
                        );
                    }
                }
            }
            Strategy::Features(features) => self.features(i, arm, features),
            Strategy::Compose(parts) => self.composition(i, arm, parts, names),
        }
    }

    fn embedder(&mut self) {
        match &self.experiment.embedder {
            EmbedderSource::Onnx(onnx) => {
                if onnx.path.is_some() == onnx.hub.is_some() {
                    let help = "give `path: FOLDER` or `hub: owner/name`";
                    let message = "an embedder comes from one place";
                    self.add(&["embedder", "onnx"], message, "here", help);
                }
                if onnx.max_length < 8 {
                    let help = "give what the model was trained with, for example 512";
                    let message = format!("an embedder that reads {} tokens", onnx.max_length);
                    self.add(&["embedder", "onnx", "max_length"], message, "too few", help);
                }
            }
            EmbedderSource::Endpoint(endpoint) => {
                if endpoint.dimension == 0 || endpoint.max_length < 8 {
                    let help = "give the `dimension` that the model's card says; `max_length` is at least 8";
                    let message = "an embedder without numbers or without words";
                    self.add(&["embedder", "endpoint"], message, "here", help);
                }
            }
            EmbedderSource::Catalog(_) | EmbedderSource::Path(_) | EmbedderSource::Hashing => {}
        }
    }

    /// The update counts `lora_alpha / lora_r` times: a scale beside a rank that nobody chose says
    /// nothing.
    fn scale(&mut self, i: &str) {
        let given = |key| self.source.says(&["arms", i, "strategy", "finetune", key]);
        let swept = |key| self.source.says(&["arms", i, "strategy", "finetune", "sweep", key]);
        let ranked = ["lora_r", "r", "lora_rank"].into_iter().any(given) || swept("lora_r");
        if given("lora_alpha") && !ranked {
            let path = ["arms", i, "strategy", "finetune", "lora_alpha"];
            let help = "give `lora_r` too: the update counts `lora_alpha / lora_r` times";
            self.add(&path, "`lora_alpha` without `lora_r`", "scales an unknown rank", help);
        }
    }

    fn sweep(&mut self) {
        let Some(sweep) = &self.experiment.sweep else { return };
        for (key, empty) in [
            ("retriever", sweep.retriever.is_empty()),
            ("chunk", sweep.chunk.is_empty()),
            ("terms", sweep.terms.is_empty()),
            ("top_k", sweep.top_k.is_empty() || sweep.top_k.contains(&0)),
        ] {
            if empty {
                let message = format!("`sweep.{key}` leaves nothing to try");
                self.add(&["sweep", key], message, "here", "give at least one value above 0");
            }
        }
        if sweep.metric().is_none() {
            let message = format!("`{}` is no retrieval metric", sweep.metric);
            let help =
                "one of ndcg, recall, precision, hit, mrr, map at a depth of 1 to 100: `ndcg@10`";
            self.add(&["sweep", "metric"], message, "here", help);
        }
        for (position, rerank) in sweep.rerank.iter().enumerate() {
            let path = ["sweep", "rerank", &position.to_string()];
            self.rerank(&path, rerank);
            if rerank.chat_model().is_some() {
                let message = "a sweep generates nothing, so no chat model can sort passages in it";
                let help = "compare arms with and without `rerank` in a run";
                self.add(&path, message, "here", help);
            }
        }
        for (position, chunk) in sweep.chunk.iter().enumerate() {
            if chunk.by != ChunkBy::Document && chunk.overlap >= chunk.size {
                let message =
                    format!("chunks of {} tokens cannot overlap by {}", chunk.size, chunk.overlap);
                let path = ["sweep", "chunk", &position.to_string()];
                self.add(&path, message, "too large", "give less than `size`");
            }
        }
    }

    /// The settings of cutting and searching.
    fn retrieval(&mut self, i: &str, rag: &Rag) {
        let at = |key| ["arms", i, "strategy", "rag", key];
        let (own, chunking) = (rag.chunk.is_some(), rag.chunking());
        let key = if own { "chunk" } else { "chunk_overlap" };
        if chunking.by != ChunkBy::Document {
            if chunking.size == 0 {
                let help = "give at least 1, or `by: document`";
                self.add(&at(key), "chunks of 0 tokens hold nothing", "here", help);
            } else if chunking.overlap >= chunking.size {
                let message = format!(
                    "chunks of {} tokens cannot overlap by {}",
                    chunking.size, chunking.overlap
                );
                self.add(&at(key), message, "too large", "give less than the size of a chunk");
            }
        }
        if own && (rag.chunk_size, rag.chunk_overlap) != (200, 0) {
            let message = "`chunk` and `chunk_size` both say how documents are cut";
            self.add(&at("chunk_size"), message, "the second", "keep `chunk`");
        }
        if let IndexBackend::Edge { m, ef_construct, ef } = rag.index
            && (m < 2 || ef_construct < 4 || ef == 0)
        {
            let help = "`m` is at least 2, `ef_construct` at least 4, `ef` at least 1";
            self.add(&at("index"), "a graph that cannot be searched", "out of range", help);
        }
        if let IndexBackend::Qdrant { url, shards, replicas, write_consistency, .. } = &rag.index {
            if !url.starts_with("http") {
                let message = format!("`{url}` is not an address");
                self.add(&at("index"), message, "here", "for example `http://localhost:6334`");
            }
            for (key, number) in [
                ("shards", shards),
                ("replicas", replicas),
                ("write_consistency", write_consistency),
            ] {
                if *number == Some(0) {
                    let message = format!("`{key}` is 0");
                    self.add(&at("index"), message, "here", "give at least 1, or leave it out");
                }
            }
        }
        for (position, filter) in rag.filter.iter().enumerate() {
            let path = ["arms", i, "strategy", "rag", "filter", &position.to_string()];
            if filter.is_empty() {
                let help = "give one of: is, any, not, gt, gte, lt, lte";
                self.add(&path, "a filter without a condition", "here", help);
            }
            let plain = |value: &serde_json::Value| {
                value.is_string() || value.is_boolean() || value.is_i64() || value.is_u64()
            };
            if let Some(value) = filter.values().find(|value| !plain(value)) {
                let message = format!("a filter cannot compare with `{value}`");
                let help =
                    "use a text, a whole number or a truth value; gt, gte, lt, lte for others";
                self.add(&path, message, "here", help);
            }
        }
        if let Some(mmr) = &rag.mmr {
            if !(0.0..=1.0).contains(&mmr.lambda) || mmr.candidates == 0 {
                let help = "`lambda` is 0 to 1, `candidates` at least 1";
                self.add(&at("mmr"), "`mmr` is out of range", "here", help);
            }
            if !rag.retriever.is_dense() {
                let help = "choose `dense`, `hybrid` or `rrf`";
                self.add(&at("mmr"), "`mmr` compares vectors, and `bm25` has none", "here", help);
            }
        }
        if let Some(rerank) = &rag.rerank {
            self.rerank(&at("rerank"), rerank);
        }
        if rag.min_score.is_some_and(f64::is_nan) {
            self.add(&at("min_score"), "`min_score` is no number", "here", "for example 0.3");
        }
        if rag.expand == Expand::Neighbours(0) {
            let help = "give at least 1, or `expand: none`";
            self.add(&at("expand"), "0 neighbours are no expansion", "here", help);
        }
    }

    fn rerank(&mut self, path: &[&str], rerank: &Rerank) {
        if rerank.candidates == 0 {
            self.add(path, "0 candidates are reranked", "here", "give at least 1");
        }
        let (window, stride) = rerank.window_and_stride();
        match rerank.chat_model() {
            Some(model) => {
                let models: Vec<&str> = self.experiment.models.keys().map(String::as_str).collect();
                self.known(path, "model", model, &models);
                if window < 2 || stride == 0 || stride >= window {
                    let message = format!("a window of {window} that moves by {stride}");
                    let help = "`window` is at least 2, `stride` from 1 to less than `window`";
                    self.add(path, message, "out of range", help);
                }
            }
            None if rerank.window.is_some() || rerank.stride.is_some() => {
                let message = "this reranker reads one passage at a time";
                let help = "`window` and `stride` are for `model: { llm: … }`";
                self.add(path, message, "it has no window", help);
            }
            None => {}
        }
    }

    fn composition(&mut self, i: &str, arm: &Arm, parts: &[String], names: &[&str]) {
        let mut kinds = BTreeSet::new();
        for (position, part) in parts.iter().enumerate() {
            let path = ["arms", i, "strategy", "compose", &position.to_string()];
            self.known(&path, "arm", part, names);
            let Some(other) = self.experiment.arms.iter().find(|other| &other.name == part) else {
                continue;
            };
            let kind = match other.strategy {
                Strategy::Prompt(_) => "prompts",
                Strategy::Rag(_) => "retrieves",
                Strategy::Finetune(_) => "fine-tunes",
                Strategy::Features(_) => {
                    let message = format!("`{part}` has no language model to compose with");
                    self.add(&path, message, "classifies embeddings", "leave it out");
                    continue;
                }
                Strategy::Compose(_) => {
                    let help = "name its parts instead";
                    self.add(&path, format!("`{part}` is a composition itself"), "here", help);
                    continue;
                }
            };
            if !kinds.insert(kind) {
                let message = format!("two parts of `{}` say how it {kind}", arm.name);
                self.add(&path, message, "the second", "keep one");
            }
            if other.model != arm.model {
                let message = format!(
                    "`{part}` runs on model `{}`, `{}` on `{}`",
                    other.model, arm.name, arm.model
                );
                self.add(&path, message, "another model", "compose arms of one model");
            }
            for set in self.sets_of(arm) {
                if other.on.as_ref().is_some_and(|on| !on.contains(&set.name)) {
                    let message =
                        format!("`{part}` does not run on set `{}`, `{}` does", set.name, arm.name);
                    self.add(&path, message, "here", format!("give `{}` the same `on`", arm.name));
                }
            }
        }
        if parts.len() < 2 {
            let path = ["arms", i, "strategy"];
            self.add(
                &path,
                "a composition has at least two parts",
                "here",
                "for example `compose: [lora, rag]`",
            );
        }
    }

    fn sets_of(&self, arm: &Arm) -> Vec<EvalSet> {
        let runs = |set: &&EvalSet| arm.on.as_ref().is_none_or(|on| on.contains(&set.name));
        self.experiment.eval_sets.iter().filter(runs).cloned().collect()
    }

    fn mix(&mut self, i: &str, arm: &Arm, mix: &Mix) {
        let names: Vec<String> =
            self.experiment.eval_sets.iter().map(|set| set.name.clone()).collect();
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        for (name, weight) in &mix.weights {
            let path = ["arms", i, "strategy", "finetune", "mix", "weights", name];
            self.known(&path, "eval set", name, &known);
            let set = self.experiment.eval_sets.iter().find(|set| &set.name == name);
            if set.is_some() && !self.sets_of(arm).iter().any(|set| &set.name == name) {
                let message =
                    format!("the mix names `{name}`, on which arm `{}` does not run", arm.name);
                let help = "add it to the arm's `on`: what is learnt is reported for each set";
                self.add(&path, message, "here", help);
            }
            if set.is_some_and(|set| set.train.is_none()) {
                let help = "give the set `train: …jsonl`, or leave it out of the mix";
                self.add(&path, format!("set `{name}` has no training rows"), "here", help);
            }
            if !weight.is_finite() || *weight <= 0.0 {
                let help = "give more than 0, or leave the set out of the mix";
                self.add(&path, format!("a weight of {weight} mixes nothing"), "here", help);
            }
        }
        let path = ["arms", i, "strategy", "finetune", "mix", "temperature"];
        if !mix.temperature.is_finite() || mix.temperature <= 0.0 {
            let help = "give 1 for the sets' own sizes, or more to even them out";
            self.add(&path, "`temperature` must be more than 0", "here", help);
        }
        if mix.weights.is_empty() {
            let path = ["arms", i, "strategy", "finetune", "mix", "weights"];
            let message = format!("the mix of arm `{}` names no set", arm.name);
            self.add(&path, message, "here", "for example `weights: { facts: 1, commands: 2 }`");
        }
    }

    /// As [`Self::needs_train`], but for sets that borrow adapters.
    fn needs_lesson(&mut self, i: &str, arm: &Arm) {
        let borrows = |set: &EvalSet| set.adapters_of.is_some();
        self.needs_rows(i, arm, "fine-tuning", borrows);
    }

    fn needs_train(&mut self, i: &str, arm: &Arm, what: &str) {
        self.needs_rows(i, arm, what, |_| false);
    }

    fn needs_rows(&mut self, i: &str, arm: &Arm, what: &str, but: impl Fn(&EvalSet) -> bool) {
        for set in self.sets_of(arm) {
            if set.train.is_none() && !but(&set) {
                let message = format!(
                    "arm `{}`: {what} need training rows, and set `{}` has none",
                    arm.name, set.name
                );
                let help =
                    "give the set `train: …jsonl`, or the arm `on: [sets with training rows]`";
                self.add(&["arms", i], message, "here", help);
            }
        }
    }

    fn judge(&mut self) {
        let experiment = self.experiment;
        let Some(judge) = &experiment.judge else {
            for (index, set) in experiment.eval_sets.iter().enumerate() {
                if set.scorers.contains(&super::Scorer::Judge {}) {
                    let path = ["eval_sets", &index.to_string(), "scorers"];
                    let message =
                        format!("set `{}` is scored by a judge that is not declared", set.name);
                    let help = "declare it: `judge: { model: …, rubric: file://… }`";
                    self.add(&path, message, "here", help);
                }
            }
            return;
        };
        self.judge_models(judge);
        self.judge_sets(judge);
        if judge.rubric.trim().is_empty() {
            self.add(
                &["judge", "rubric"],
                "the rubric is empty",
                "here",
                "say what each grade means",
            );
        }
        self.grade_scale(&["judge", "grades"], &judge.grades);
        self.shown(judge);
        if judge.sample == Some(0) {
            let help = "leave `sample` out to judge all";
            self.add(&["judge", "sample"], "the judge judges nothing", "0", help);
        }
        if judge.pairs_per_sample == Some(0) {
            let help = "leave `pairs_per_sample` out to compare all pairs";
            self.add(&["judge", "pairs_per_sample"], "the judge compares nothing", "0", help);
        }
        if judge.temperature.is_nan() || judge.temperature < 0.0 {
            let message = "`judge.temperature` is out of range";
            self.add(&["judge", "temperature"], message, "here", "give 0 (greedy) or more");
        }
        if judge.repeats.get() > 1 && judge.temperature == 0.0 {
            let help = "give `temperature: 0.7`, or leave `repeats` out";
            let message = "a greedy judge says the same each time";
            self.add(&["judge", "repeats"], message, "with temperature 0", help);
        }
        if judge.repeats.get() > 1 && judge.mode == JudgeMode::Pairwise {
            let help = "leave `repeats` out; `bench judge calibrate` repeats comparisons";
            let message = "a pairwise judge is asked in both orders and not more often";
            self.add(&["judge", "repeats"], message, "here", help);
        }
        if judge.min_judge_agreement.is_some_and(|floor| !(0.0..=1.0).contains(&floor)) {
            let message = "`judge.min_judge_agreement` is out of range";
            self.add(&["judge", "min_judge_agreement"], message, "here", "give 0 to 1");
        }
        if judge.mode == JudgeMode::Pairwise && judge.labels.is_some() {
            let message = "labels are grades of single answers, and this judge compares two";
            let help = "measure it on labelled pairs with `bench judge calibrate`";
            self.add(&["judge", "labels"], message, "here", help);
        }
        if judge.confusion.is_some_and(|confusion| confusion.agreement().is_none()) {
            let message = "the confusion matrix counts nothing";
            self.add(&["judge", "confusion"], message, "all 0", "give the four counts");
        }
    }

    fn grade_scale(&mut self, path: &[&str], grades: &[u32]) {
        let rising = grades.windows(2).all(|pair| pair[0] < pair[1]);
        if grades.len() < 2 || !rising {
            let help = "at least two, worst to best, for example [1, 2, 3, 4, 5]";
            self.add(path, "the grades are no scale", "here", help);
        }
    }

    /// What the judge is shown, and what else it grades by.
    fn shown(&mut self, judge: &Judge) {
        let experiment = self.experiment;
        let mut views = vec![(vec!["judge"], judge.clone())];
        for (name, criterion) in &judge.criteria {
            let path = ["judge", "criteria", name.as_str()];
            views.push((path.to_vec(), judge.by(criterion)));
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || !name.chars().all(plain) {
                let message = format!("a criterion is called `{name}`");
                let help = "letters, digits, `_` and `-`, for example `faithfulness`";
                self.add(&path, message, "names a column", help);
            }
            if criterion.rubric.trim().is_empty() {
                let path = ["judge", "criteria", name, "rubric"];
                self.add(&path, "the rubric is empty", "here", "say what each grade means");
            }
            if let Some(grades) = &criterion.grades {
                self.grade_scale(&["judge", "criteria", name, "grades"], grades);
            }
        }
        let shows = |arm: &&Arm| self.shows_passages(arm);
        let without: Vec<&Arm> = experiment.arms.iter().filter(|arm| !shows(arm)).collect();
        for (mut path, view) in views {
            path.push("shows");
            if !view.shows.contains(&Shown::Answer) {
                let message = "the judge is not shown what it judges";
                self.add(&path, message, "here", "add `answer` to `shows`");
            }
            if !view.needs_passages() {
                continue;
            }
            if judge.mode == JudgeMode::Pairwise {
                let message = "a pairwise judge is shown no passages: those of two arms differ";
                self.add(&path, message, "here", "take `mode: rubric`, or leave `passages` out");
            } else if without.len() == experiment.arms.len() {
                let message = "the judge is shown passages, and no arm has any";
                self.add(&path, message, "here", "add an arm that retrieves");
            }
        }
        if judge.mode == JudgeMode::Pairwise && !judge.criteria.is_empty() {
            let message = "criteria are graded, and this judge compares two answers";
            self.add(&["judge", "criteria"], message, "here", "take `mode: rubric`");
        }
        // An arm without a score would lose nothing and win nothing.
        if !judge.needs_passages() || without.len() == experiment.arms.len() {
            return;
        }
        for (index, set) in experiment.eval_sets.iter().enumerate() {
            let asked = |arm: &&&Arm| arm.on.as_ref().is_none_or(|on| on.contains(&set.name));
            if set.scorers.first() == Some(&super::Scorer::Judge {})
                && let Some(arm) = without.iter().find(asked)
            {
                let path = ["eval_sets", &index.to_string(), "scorers"];
                let message = format!(
                    "set `{}` is decided by how answers stand to their passages, and arm `{}` has none",
                    set.name, arm.name
                );
                let help = "put another scorer first, or this rubric under `judge.criteria`";
                self.add(&path, message, "the judge decides", help);
            }
        }
    }

    /// Whether the arm, or a part of it, puts passages into its prompts.
    fn shows_passages(&self, arm: &Arm) -> bool {
        match &arm.strategy {
            Strategy::Rag(rag) => rag.passages != PassageSource::ClosedBook,
            Strategy::Finetune(finetune) => finetune.raft.is_some(),
            Strategy::Prompt(_) | Strategy::Features(_) => false,
            Strategy::Compose(parts) => {
                let part = |name: &String| self.experiment.arms.iter().find(|a| a.name == *name);
                let shows = |arm: &Arm| match &arm.strategy {
                    Strategy::Compose(_) => false,
                    _ => self.shows_passages(arm),
                };
                parts.iter().filter_map(part).any(shows)
            }
        }
    }

    fn judge_models(&mut self, judge: &Judge) {
        let experiment = self.experiment;
        let models: Vec<&str> = experiment.models.keys().map(String::as_str).collect();
        if judge.model.is_empty() == judge.judges.is_empty() {
            let help = "give `model: …`, or `judges: [a, b, c]` for a jury";
            let (message, label) = if judge.model.is_empty() {
                ("the judge has no model", "here")
            } else {
                ("both `model` and `judges` are given", "keep one")
            };
            self.add(&["judge"], message, label, help);
            return;
        }
        for (position, name) in judge.names().into_iter().enumerate() {
            let position = position.to_string();
            let path: &[&str] = if judge.judges.is_empty() {
                &["judge", "model"]
            } else {
                &["judge", "judges", &position]
            };
            self.known(path, "model", name, &models);
            if judge.names().iter().filter(|other| **other == name).count() > 1 {
                let message = format!("`{name}` sits in the jury twice");
                self.add(path, message, "here", "each judge has one vote");
            }
            let own = experiment.models.get(name);
            let arm = experiment
                .arms
                .iter()
                .find(|arm| own.is_some() && experiment.models.get(&arm.model) == own);
            if let Some(arm) = arm.filter(|_| !judge.allow_self_judging) {
                let message = format!("the judge is the model of arm `{}`", arm.name);
                let help = "judge with another model, or set `allow_self_judging: true` and every table says so";
                self.add(path, message, "judges itself", help);
            }
        }
    }

    fn judge_sets(&mut self, judge: &Judge) {
        let experiment = self.experiment;
        let sets: Vec<&str> = experiment.eval_sets.iter().map(|set| set.name.as_str()).collect();
        for (position, set) in judge.on.iter().flatten().enumerate() {
            self.known(&["judge", "on", &position.to_string()], "eval set", set, &sets);
        }
        for (index, set) in experiment.eval_sets.iter().enumerate() {
            let judged = judge.on.as_ref().is_none_or(|on| on.contains(&set.name));
            let i = index.to_string();
            if !judged && set.scorers.contains(&super::Scorer::Judge {}) {
                let message = format!(
                    "set `{}` is scored by the judge, and `judge.on` leaves it out",
                    set.name
                );
                self.add(
                    &["eval_sets", &i, "scorers"],
                    message,
                    "here",
                    "add the set to `judge.on`",
                );
            }
            let arms = experiment.arms.iter();
            let arms = arms.filter(|arm| arm.on.as_ref().is_none_or(|on| on.contains(&set.name)));
            if judged && judge.mode == JudgeMode::Pairwise && arms.count() < 2 {
                let message = format!(
                    "a pairwise judge needs two arms, and set `{}` has one or none",
                    set.name
                );
                let help = "add an arm, or take `mode: rubric`";
                self.add(&["judge", "mode"], message, "compares two", help);
            }
        }
    }

    fn settings(&mut self) {
        let experiment = self.experiment;
        let names: Vec<&str> = experiment.arms.iter().map(|arm| arm.name.as_str()).collect();
        self.known(&["compare", "baseline"], "arm", &experiment.compare.baseline, &names);
        for (section, key, wrong, need) in [
            (
                "compare",
                "alpha",
                !(0.0..1.0).contains(&experiment.compare.alpha) || experiment.compare.alpha == 0.0,
                "between 0 and 1, for example 0.05",
            ),
            (
                "compare",
                "margin",
                !(0.0..1.0).contains(&experiment.compare.margin),
                "0 to below 1, for example 0.02",
            ),
            (
                "generate",
                "temperature",
                experiment.generate.temperature < 0.0,
                "0 (greedy) or more",
            ),
            ("generate", "max_tokens", experiment.generate.max_tokens == 0, "at least 1"),
            (
                "generate",
                "top_p",
                experiment.generate.top_p.is_some_and(|p| !(0.0..=1.0).contains(&p) || p == 0.0),
                "more than 0, at most 1",
            ),
            ("run", "max_concurrency", experiment.run.max_concurrency == 0, "at least 1"),
        ] {
            if wrong {
                self.add(
                    &[section, key],
                    format!("`{section}.{key}` is out of range"),
                    "here",
                    format!("give {need}"),
                );
            }
        }
        self.stop();
        self.constraints();
        let mut models: Vec<&str> = experiment.models.keys().map(String::as_str).collect();
        models
            .extend(experiment.arms.iter().map(Arm::answers_with).filter(|n| *n == Arm::EMBEDDER));
        let Some(list) = experiment.prices.list() else { return };
        for name in list.models.keys() {
            self.known(&["prices", "models", name], "model", name, &models);
        }
        for (path, message, help) in list.flaws() {
            let path: Vec<&str> =
                std::iter::once("prices").chain(path.iter().map(String::as_str)).collect();
            self.add(&path, message, "here", help);
        }
    }

    fn break_even(&mut self) {
        let assumed = &self.experiment.break_even;
        for (key, wrong, need) in [
            ("months", assumed.months == 0, "at least 1"),
            (
                "retrain_weeks",
                assumed.retrain_weeks.is_some_and(|weeks| weeks.is_nan() || weeks <= 0.0),
                "more than 0, or leave it out to train once",
            ),
            ("cache_hit_rate", !(0.0..=1.0).contains(&assumed.cache_hit_rate), "0 to 1"),
            ("idle_hours", !(0.0..=744.0).contains(&assumed.idle_hours), "0 to 744 hours a month"),
            (
                "price_fall_percent",
                !(0.0..100.0).contains(&assumed.price_fall_percent),
                "0 to below 100 percent a year",
            ),
        ] {
            if wrong {
                let message = format!("`break_even.{key}` is out of range");
                self.add(&["break_even", key], message, "here", format!("give {need}"));
            }
        }
    }

    fn stop(&mut self) {
        let experiment = self.experiment;
        let Some(stop) = &experiment.run.stop else { return };
        if stop.half_width.is_none() && !stop.decided {
            let help = "for example `stop: { half_width: 0.03 }` or `stop: { decided: true }`";
            self.add(&["run", "stop"], "the run is told to stop, and not when", "here", help);
        }
        if stop.half_width.is_some_and(|half| !(half > 0.0 && half < 0.5)) {
            let message = "`run.stop.half_width` is out of range";
            let help = "more than 0, less than 0.5, for example 0.03";
            self.add(&["run", "stop", "half_width"], message, "here", help);
        }
        if stop.first == 0 {
            let message = "the first round asks nothing";
            self.add(&["run", "stop", "first"], message, "0", "give at least 1, for example 20");
        }
        for (index, set) in experiment.eval_sets.iter().enumerate() {
            if let Some(super::Scorer::EmbeddingSimilarity {}) = set.scorers.first() {
                let path = ["eval_sets", &index.to_string(), "scorers"];
                let message = "a run that stops early needs a deciding score from 0 to 1";
                let help = "put another scorer first, or leave `run.stop` out";
                self.add(&path, message, "from -1 to 1", help);
            }
        }
        if let Some(judge) = experiment.judge.as_ref().filter(|judge| judge.sample.is_some()) {
            let judged = |set: &EvalSet| judge.on.as_ref().is_none_or(|on| on.contains(&set.name));
            let decides = |set: &&EvalSet| set.scorers.first() == Some(&super::Scorer::Judge {});
            if experiment.eval_sets.iter().filter(decides).any(judged) {
                let message = "`judge.sample` leaves samples without the score that stops the run";
                let help = "leave `judge.sample` out: `run.stop` saves the spending";
                self.add(&["judge", "sample"], message, "here", help);
            }
        }
    }

    /// A limit on a figure or a weight of it needs the figure.
    fn constraints(&mut self) {
        let compare = &self.experiment.compare;
        let (limits, weights) = (&compare.constraints, &compare.weights);
        for (section, key, value) in [
            ("constraints", "max_cost_per_1000", limits.max_cost_per_1000),
            ("constraints", "max_p95_latency_ms", limits.max_p95_latency_ms),
            ("constraints", "min_quality", limits.min_quality),
            ("constraints", "max_training_cost", limits.max_training_cost),
            ("constraints", "min_retention", limits.min_retention),
            ("weights", "cost_per_1000", weights.cost_per_1000),
            ("weights", "p95_latency_ms", weights.p95_latency_ms),
            ("weights", "training_cost", weights.training_cost),
            ("weights", "retention", weights.retention),
        ] {
            if value.is_some_and(|value| !value.is_finite() || value < 0.0) {
                let message = format!("`compare.{section}.{key}` is out of range");
                self.add(&["compare", section, key], message, "here", "give 0 or more");
            }
        }
        if !weights.is_empty() && self.experiment.run.stop.is_some() {
            let message = "a run that stops early compares scores, and here costs are weighed in";
            let help = "use `compare.constraints` instead, or leave `run.stop` out";
            self.add(&["compare", "weights"], message, "here", help);
        }
        let measured = |limit: Option<f64>, limited, weight: Option<f64>, weighed| {
            let limit = limit.map(|_| ("constraints", limited, "limited"));
            limit.or(weight.map(|_| ("weights", weighed, "weighed")))
        };
        let cost = measured(
            limits.max_cost_per_1000,
            "max_cost_per_1000",
            weights.cost_per_1000,
            "cost_per_1000",
        );
        let training = measured(
            limits.max_training_cost,
            "max_training_cost",
            weights.training_cost,
            "training_cost",
        );
        let retention =
            measured(limits.min_retention, "min_retention", weights.retention, "retention");
        if let Some((section, key, word)) = cost {
            self.needs_prices(&["compare", section, key], word);
        }
        if let Some((section, key, word)) = training {
            self.needs_training_prices(&["compare", section, key], word);
        }
        if let Some((section, key, word)) = retention {
            self.needs_retention(&["compare", section, key], word);
        }
    }

    fn needs_prices(&mut self, path: &[&str], word: &str) {
        let experiment = self.experiment;
        let unpriced: BTreeSet<&str> = experiment
            .arms
            .iter()
            .map(Arm::answers_with)
            .filter(|model| {
                experiment.prices.list().is_some_and(|list| !list.models.contains_key(*model))
            })
            .collect();
        if !unpriced.is_empty() {
            let names: Vec<&str> = unpriced.into_iter().collect();
            let message = format!(
                "the cost is {word}, and this run does not measure it: no prices for {}",
                names.join(", ")
            );
            let help = "give `prices: { date: …, models: { MODEL: { input: …, output: … } } }`, or drop the limit";
            self.add(path, message, "not measured", help);
        }
    }

    fn needs_training_prices(&mut self, path: &[&str], word: &str) {
        let experiment = self.experiment;
        let hour = |model: &str| {
            let price = experiment.prices.of(model, false);
            price.is_some_and(|price| price.training_hour() > 0.0)
        };
        let trained = experiment.arms.iter().filter(|arm| self.is_trained(arm));
        let unpriced: BTreeSet<&str> =
            trained.map(|arm| arm.model.as_str()).filter(|model| !hour(model)).collect();
        // A file's prices are checked when it has been read.
        if !unpriced.is_empty() && experiment.prices.list().is_some() {
            let names: Vec<&str> = unpriced.into_iter().collect();
            let message = format!(
                "the cost of training is {word}, and this run does not measure it: no price of an hour for {}",
                names.join(", ")
            );
            let help = "give `prices: { date: …, models: { MODEL: { gpu_hour: … } } }` (or `machine_hour`), or drop it";
            self.add(path, message, "not measured", help);
        }
    }

    fn needs_retention(&mut self, path: &[&str], word: &str) {
        let experiment = self.experiment;
        let runs =
            |arm: &Arm, set: &EvalSet| arm.on.as_ref().is_none_or(|on| on.contains(&set.name));
        for arm in experiment.arms.iter().filter(|arm| self.is_trained(arm)) {
            let sets = &experiment.eval_sets;
            let decided = sets.iter().filter(|set| !set.retention && runs(arm, set));
            let unmeasured = decided.filter(|set| {
                !sets.iter().any(|s| s.retention && s.train == set.train && runs(arm, s))
            });
            if let Some(set) = unmeasured.map(|set| &set.name).next() {
                let message = format!(
                    "retention is {word}, and this run does not measure that of arm `{}` as trained for set `{set}`",
                    arm.name
                );
                let help = "add a set of general questions with `retention: true` and the same `train`, or drop it";
                self.add(path, message, "not measured", help);
                return;
            }
        }
    }

    /// Whether the arm, or a part of it, is fine-tuned.
    fn is_trained(&self, arm: &Arm) -> bool {
        match &arm.strategy {
            Strategy::Finetune(_) => true,
            Strategy::Prompt(_) | Strategy::Rag(_) | Strategy::Features(_) => false,
            Strategy::Compose(parts) => {
                let part = |name: &String| self.experiment.arms.iter().find(|a| a.name == *name);
                let is_tuned = |arm: &Arm| matches!(arm.strategy, Strategy::Finetune(_));
                parts.iter().filter_map(part).any(is_tuned)
            }
        }
    }

    fn gates(&mut self) {
        let experiment = self.experiment;
        let names: Vec<&str> = experiment.arms.iter().map(|arm| arm.name.as_str()).collect();
        let sets: Vec<&str> = experiment.eval_sets.iter().map(|set| set.name.as_str()).collect();
        let mut metrics: Vec<&str> = experiment
            .eval_sets
            .iter()
            .flat_map(|set| set.scorers.iter().map(super::Scorer::name))
            .collect();
        let criteria = experiment.judge.iter().flat_map(|judge| judge.criteria.keys());
        let criteria: Vec<String> = criteria.map(|name| Judge::column(name)).collect();
        if experiment.judge.is_some() {
            metrics.push("judge");
            metrics.extend(criteria.iter().map(String::as_str));
        }
        metrics.extend(super::Gate::FIGURES);
        for (index, gate) in experiment.gates.iter().enumerate() {
            let i = index.to_string();
            self.known(&["gates", &i, "arm"], "arm", &gate.arm, &names);
            self.known(&["gates", &i, "metric"], "metric", &gate.metric, &metrics);
            if let Some(vs) = &gate.vs {
                self.known(&["gates", &i, "vs"], "arm", vs, &names);
            }
            if let Some(set) = &gate.set {
                self.known(&["gates", &i, "set"], "eval set", set, &sets);
            }
            if gate.vs.is_some() && super::Gate::FIGURES.contains(&gate.metric.as_str()) {
                let message = format!("`{}` is not compared with another arm", gate.metric);
                self.add(&["gates", &i, "vs"], message, "here", "leave `vs` out");
            }
            for (key, text, example) in [
                ("ci_lower", &gate.ci_lower, "for example `\">= 0\"` or `\"> 0.5\"`"),
                ("ci_upper", &gate.ci_upper, "for example `\"<= 800\"` or `\"< 0.1\"`"),
            ] {
                if let Some(text) = text
                    && super::Bound::parse(text).is_none_or(|b| b.is_lower != (key == "ci_lower"))
                {
                    let message = format!("`{text}` is no condition");
                    self.add(&["gates", &i, key], message, "here", example);
                }
            }
            if gate.ci_lower.is_none() && gate.ci_upper.is_none() {
                let help = "add `ci_lower: \">= …\"` or `ci_upper: \"<= …\"`";
                self.add(&["gates", &i], "the gate demands nothing", "here", help);
            }
            let is_retention = gate.metric == "retention";
            if is_retention && experiment.eval_sets.iter().all(|set| !set.retention) {
                let help = "mark a set of general questions with `retention: true`";
                self.add(&["gates", &i, "metric"], "no set measures retention", "here", help);
            }
            if gate.metric == "judge_agreement" && experiment.judge.is_none() {
                let help = "declare a `judge`";
                self.add(&["gates", &i, "metric"], "there is no judge", "here", help);
            }
        }
    }
}
