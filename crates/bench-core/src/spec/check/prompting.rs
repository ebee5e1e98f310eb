//! The conditions on how arms prompt and on the language of their answers.

use super::Sense;
use crate::spec::{
    Arm, Constraint, Finetune, Method, ModelSource, Objective, PassageSource, Prompt, ProposeFrom,
    Raft, Rag, Scorer, Strategy,
};

impl Sense<'_> {
    /// The settings of a prompting arm.
    pub(super) fn prompting(&mut self, i: &str, arm: &Arm, prompt: &Prompt) {
        let at = |key| ["arms", i, "strategy", "prompt", key];
        if prompt.is_tuned() {
            self.tuned(i, arm, prompt);
        }
        self.best_of(i, prompt);
        if let Some(vote) = &prompt.self_consistency {
            if vote.n < 2 {
                let help = "give at least 2; 5 to 10 is usual";
                self.add(&at("self_consistency"), "one answer needs no vote", "`n` here", help);
            }
            if !(vote.temperature.is_finite() && vote.temperature > 0.0) {
                let message = "without temperature all answers are the same one";
                self.add(&at("self_consistency"), message, "here", "for example 0.7");
            }
        }
    }

    /// The settings of an arm that takes the best of several answers.
    pub(super) fn best_of(&mut self, i: &str, prompt: &Prompt) {
        let Some(best) = &prompt.best_of else { return };
        let path = ["arms", i, "strategy", "prompt", "best_of"];
        let known: Vec<&str> = self.experiment.rewards.keys().map(String::as_str).collect();
        if known.is_empty() {
            let message = format!("there is no reward model `{}`", best.reward);
            let help = "declare it: `rewards: { NAME: { model: …, set: … } }`";
            self.add(&path, message, "not declared", help);
        } else {
            self.known(&path, "reward model", &best.reward, &known);
        }
        if best.n < 2 {
            self.add(&path, "one answer is always the best", "`n` here", "give at least 2");
        }
        if !(best.temperature.is_finite() && best.temperature > 0.0) {
            let message = "without temperature all answers are the same one";
            self.add(&path, message, "here", "for example 0.7");
        }
        for (key, both) in
            [("self_consistency", prompt.self_consistency.is_some()), ("tune", prompt.is_tuned())]
        {
            if both {
                let message = format!("`best_of` does not go with `{key}`");
                self.add(&path, message, "here", "keep one of them");
            }
        }
    }

    /// The reward models.
    pub(super) fn rewards(&mut self) {
        let experiment = self.experiment;
        let models: Vec<&str> = experiment.models.keys().map(String::as_str).collect();
        let sets: Vec<&str> = experiment.eval_sets.iter().map(|set| set.name.as_str()).collect();
        for (name, reward) in &experiment.rewards {
            let at = |key| ["rewards", name.as_str(), key];
            self.known(&at("model"), "model", &reward.model, &models);
            self.known(&at("set"), "eval set", &reward.set, &sets);
            if let Some(ModelSource::Endpoint(_)) = experiment.models.get(&reward.model) {
                let help = "only a local model (catalog, path, hub) can be trained";
                let message = format!("reward model `{name}` is behind an endpoint");
                self.add(&at("model"), message, "not local", help);
            }
            let set = experiment.eval_sets.iter().find(|set| set.name == reward.set);
            if set.is_some_and(|set| set.train.is_none()) {
                let message = format!("set `{}` has no preferences to learn", reward.set);
                let help = "give it `train: …jsonl` with `chosen` and `rejected`";
                self.add(&at("set"), message, "no `train`", help);
            }
            let settings = &reward.finetune;
            let plain = matches!(settings.objective, Objective::Reward | Objective::Sft);
            let extra = settings.raft.is_some() || settings.mix.is_some() || settings.needs_dev();
            if !plain || extra || !settings.method.is_low_rank() || settings.seeds.len() > 1 {
                let message = format!("reward model `{name}` cannot be trained like this");
                let help = "give `method: lora` or `qlora`, no other objective than `reward`, one seed, and neither `raft`, `mix` nor early stopping";
                self.add(&at("finetune"), message, "here", help);
            }
            for (key, wrong) in [
                ("lora_r", settings.lora_r == 0),
                ("num_epochs", settings.num_epochs == 0),
                ("learning_rate", settings.learning_rate.is_nan() || settings.learning_rate <= 0.0),
                ("micro_batch_size", settings.micro_batch_size == 0),
                ("limit", settings.limit == Some(0)),
            ] {
                if wrong {
                    let path = ["rewards", name, "finetune", key];
                    self.add(&path, format!("`{key}` cannot train"), "here", "give more than 0");
                }
            }
        }
    }

    fn tuned(&mut self, i: &str, arm: &Arm, prompt: &Prompt) {
        let at = |key| ["arms", i, "strategy", "prompt", key];
        if prompt.template.is_some() && !prompt.candidates.is_empty() {
            let message = "`template` and `candidates` both say what is asked";
            self.add(&at("template"), message, "one of them", "make it the first candidate");
        }
        if prompt.candidates.len() < 2 && prompt.propose.is_none() {
            let message = "there is only one prompt to choose";
            let help = "give at least two `candidates`, or `propose: { n: 4 }`";
            self.add(&at("tune"), message, "nothing to tune", help);
        }
        let tune = prompt.tune.clone().unwrap_or_default();
        let n = prompt.candidates.len().max(1)
            + prompt.propose.as_ref().map_or(0, |propose| propose.n as usize);
        if (tune.budget as usize) < n {
            let message = format!("a budget of {} answers for {n} prompts", tune.budget);
            self.add(&at("tune"), message, "too small", format!("give at least {}", 10 * n));
        }
        if tune.rungs == 0 {
            self.add(&at("tune"), "`rungs` is 0", "here", "give at least 1; 3 is usual");
        }
        for set in self.sets_of(arm) {
            if set.dev.is_none() {
                let message = format!(
                    "arm `{}` chooses its prompt on dev samples, and set `{}` has none",
                    arm.name, set.name
                );
                let help = "give the set `dev: …jsonl`, samples that are not those of `path`";
                self.add(&["arms", i], message, "here", help);
            }
            let metric = match &tune.metric {
                Some(name) => set.scorers.iter().find(|scorer| scorer.name() == name),
                None => set.scorers.first(),
            };
            if metric == Some(&Scorer::Judge {}) {
                let message = format!(
                    "arm `{}` would choose its prompt by the judge's verdicts on set `{}`",
                    arm.name, set.name
                );
                let help = "give `tune: { metric: … }` another scorer of the set";
                self.add(&at("tune"), message, "a judge is not asked on dev", help);
            }
            if let Some(metric) = &tune.metric {
                let names: Vec<&str> = set.scorers.iter().map(Scorer::name).collect();
                self.known(&at("tune"), "scorer", metric, &names);
            }
        }
        let Some(propose) = &prompt.propose else { return };
        if let Some(model) = &propose.model {
            let models: Vec<&str> = self.experiment.models.keys().map(String::as_str).collect();
            self.known(&at("propose"), "model", model, &models);
        }
        if propose.n == 0 {
            self.add(&at("propose"), "`n` is 0", "writes nothing", "give at least 1");
        }
        if propose.from == ProposeFrom::Induction {
            self.needs_train(i, arm, "instructions made from examples");
        }
    }

    /// The settings of a retrieving arm that say what is asked and shown.
    pub(super) fn retrieving(&mut self, i: &str, arm: &Arm, rag: &Rag) {
        let at = |key| ["arms", i, "strategy", "rag", key];
        if let Some(model) = &rag.query_model {
            let models: Vec<&str> = self.experiment.models.keys().map(String::as_str).collect();
            self.known(&at("query_model"), "model", model, &models);
        }
        if rag.iterations == 0 {
            let help = "give 1, or 2 for questions that need two searches";
            self.add(&at("iterations"), "`iterations` is 0", "never searches", help);
        }
        match &rag.passages {
            PassageSource::WholeCorpus if rag.context_tokens > 0 => {
                let message = "the whole corpus has no token budget";
                self.add(&at("context_tokens"), message, "here", "leave it out");
            }
            PassageSource::ClosedBook if rag.citations => {
                let message = "an arm without passages cannot cite any";
                self.add(&at("citations"), message, "here", "leave it out");
            }
            PassageSource::OraclePlusNoise { golden_rank: Some(0), .. } => {
                self.add(&at("passages"), "ranks are counted from 1", "0 here", "give at least 1");
            }
            PassageSource::Retrieved
            | PassageSource::Oracle
            | PassageSource::Random
            | PassageSource::ClosedBook
            | PassageSource::WholeCorpus
            | PassageSource::OraclePlusNoise { .. } => {}
        }
        let needs_gold = matches!(
            rag.passages,
            PassageSource::Oracle
                | PassageSource::WholeCorpus
                | PassageSource::OraclePlusNoise { .. }
        );
        for set in self.sets_of(arm) {
            if needs_gold && !set.has_corpus() && set.train.is_some() {
                let message = format!(
                    "arm `{}` shows documents of a corpus, and set `{}` has none",
                    arm.name, set.name
                );
                let help = "give the set a corpus, or the arm `on: [sets with one]`";
                self.add(&["arms", i], message, "here", help);
            }
        }
    }

    /// The settings of an arm that trains on prompts with passages.
    pub(super) fn raft(&mut self, i: &str, arm: &Arm, finetune: &Finetune, raft: &Raft) {
        let path = ["arms", i, "strategy", "finetune", "raft"];
        if finetune.template.is_some() || finetune.system.is_some() {
            let message = "rows with passages are laid out as the retrieving arm's prompts";
            let help = "give `template` and `system` to the retrieving arm";
            self.add(&path, message, "beside a template of its own", help);
        }
        if !(0.0..=1.0).contains(&raft.without_golden) {
            let message = "`without_golden` is a share of the rows";
            self.add(&path, message, "out of range", "give 0 to 1, for example 0.2");
        }
        if raft.reasoning.as_ref().is_some_and(|field| field.trim().is_empty()) {
            let message = "`reasoning` names no field";
            let help = "name the field of the training rows that holds it, or leave it out";
            self.add(&path, message, "empty", help);
        }
        if let Some(name) = &raft.rag {
            let retrieving: Vec<&str> = self
                .experiment
                .arms
                .iter()
                .filter(|other| matches!(other.strategy, Strategy::Rag(_)))
                .map(|other| other.name.as_str())
                .collect();
            self.known(&path, "retrieving arm", name, &retrieving);
        }
        for set in self.sets_of(arm) {
            if !set.has_corpus() {
                let message = format!(
                    "arm `{}` trains on prompts with passages, and set `{}` has no corpus",
                    arm.name, set.name
                );
                let help = "give the set a corpus, or the arm `on: [sets with one]`";
                self.add(&["arms", i], message, "here", help);
            }
        }
    }

    /// The language of an arm's answers, its own or the eval set's.
    pub(super) fn arm_constraint(&mut self, i: &str, arm: &Arm) {
        if matches!(arm.strategy, Strategy::Features(_)) {
            return;
        }
        if let Some(constraint) = &arm.constraint {
            self.language(&["arms", i, "constraint"], arm, constraint);
            return;
        }
        for set in self.sets_of(arm) {
            let position = self.experiment.eval_sets.iter().position(|one| one.name == set.name);
            if let (Some(constraint), Some(position)) = (&set.constraint, position) {
                let path = ["eval_sets", &position.to_string(), "constraint"];
                self.language(&path, arm, constraint);
            }
        }
    }

    fn language(&mut self, path: &[&str], arm: &Arm, constraint: &Constraint) {
        if let Constraint::Choices(choices) = constraint {
            let mut seen = std::collections::BTreeSet::new();
            if choices.is_empty() || choices.iter().any(|choice| choice.trim().is_empty()) {
                let help = "give at least one text";
                self.once(path, "`choices` offers nothing to say", "empty", help);
            } else if let Some(twice) = choices.iter().find(|choice| !seen.insert(*choice)) {
                let message = format!("`choices` names `{twice}` twice");
                self.once(path, &message, "here", "name each text once");
            }
        }
        let kind = match constraint {
            Constraint::Regex(_) => "regex",
            Constraint::Grammar(_) => "grammar",
            Constraint::JsonSchema(_)
            | Constraint::Choices(_)
            | Constraint::SampleChoices
            | Constraint::Free => "",
        };
        if !kind.is_empty()
            && let Some(ModelSource::Endpoint(_)) = self.experiment.models.get(&arm.model)
        {
            let message = format!(
                "arm `{}` answers through an endpoint, and that protocol has no `{kind}`",
                arm.name
            );
            let help = "use `choices` or `json_schema`, or a local model";
            self.once(path, &message, "cannot be met", help);
        }
        if !matches!(constraint, Constraint::Free) && self.is_soft(arm) {
            let message = format!(
                "arm `{}` has a soft prompt, and the decoder that serves it knows no constraint",
                arm.name
            );
            self.once(path, &message, "cannot be met", "give the arm `constraint: free`");
        }
        if matches!(constraint, Constraint::Choices(_) | Constraint::SampleChoices)
            && self.reasons(arm)
        {
            let message = format!("arm `{}` is to reason, but may only say a choice", arm.name);
            let help = "give it `constraint: free`, or drop `chain_of_thought` (`raft.reasoning`)";
            self.once(path, &message, "leaves no room for reasons", help);
        }
    }

    /// Whether an arm is served with a soft prompt.
    fn is_soft(&self, arm: &Arm) -> bool {
        let soft = |strategy: &Strategy| matches!(strategy, Strategy::Finetune(f) if f.method == Method::SoftPrompt);
        match &arm.strategy {
            Strategy::Compose(parts) => self
                .experiment
                .arms
                .iter()
                .any(|other| parts.contains(&other.name) && soft(&other.strategy)),
            one => soft(one),
        }
    }

    fn reasons(&self, arm: &Arm) -> bool {
        let reasons = |strategy: &Strategy| match strategy {
            Strategy::Prompt(prompt) => prompt.chain_of_thought,
            Strategy::Finetune(finetune) => {
                finetune.raft.as_ref().is_some_and(|raft| raft.reasoning.is_some())
            }
            Strategy::Rag(_) | Strategy::Features(_) | Strategy::Compose(_) => false,
        };
        match &arm.strategy {
            Strategy::Compose(parts) => {
                let mut others = self.experiment.arms.iter();
                others.any(|other| parts.contains(&other.name) && reasons(&other.strategy))
            }
            one => reasons(one),
        }
    }

    /// A problem of an eval set shows with every arm that runs on it; it is said once.
    fn once(&mut self, path: &[&str], message: &str, label: &str, help: &str) {
        if !self.problems.iter().any(|problem| problem.message == message) {
            self.add(path, message, label, help);
        }
    }
}
