//! The language of answers, from the setting to the constraint that a backend gets.

use bench_core::backend::Constraint;
use bench_core::spec::{ArmPlan, Constraint as Setting, Experiment};
use regex::Regex;

use super::{Language, LoadedSet, Reader, SHOWN_ROW_ERRORS};
use crate::score;

impl Reader<'_> {
    /// Reads every arm's language on every set it runs on.
    pub(super) fn languages(
        &mut self,
        experiment: &Experiment,
        plans: &[ArmPlan],
        sets: &mut [LoadedSet],
    ) {
        for set in sets {
            let position = |name: &str| {
                let mut sets = experiment.eval_sets.iter();
                sets.position(|set| set.name == name).unwrap_or(0).to_string()
            };
            let of_set = position(&set.spec.name);
            let mut shared = None;
            for (arm, plan) in plans.iter().enumerate() {
                if !plan.sets.contains(&set.spec.name) || plan.features.is_some() {
                    continue;
                }
                if let Some(of) = &plan.curve {
                    if let Some(language) = set.languages.get(of).cloned() {
                        set.languages.insert(plan.name.clone(), language);
                    }
                    continue;
                }
                let language = match &plan.constraint {
                    Some(own) => {
                        let path = ["arms", &arm.to_string(), "constraint"];
                        self.language(&path, own, set)
                    }
                    // The set's is read once, so that what is wrong with it is said once.
                    None => shared
                        .get_or_insert_with(|| {
                            let setting = set.spec.constraint.as_ref()?;
                            let path = ["eval_sets", &of_set, "constraint"];
                            self.language(&path, setting, set)
                        })
                        .clone(),
                };
                if let Some(language) = language {
                    set.languages.insert(plan.name.clone(), language);
                }
            }
        }
    }

    fn language(&mut self, path: &[&str], setting: &Setting, set: &LoadedSet) -> Option<Language> {
        let constraint = match setting {
            Setting::Free => return None,
            Setting::SampleChoices => {
                let without = set.samples.iter().filter(|sample| sample.choices.is_empty());
                let without: Vec<String> =
                    without.map(|sample| sample.id.clone()).take(SHOWN_ROW_ERRORS).collect();
                for id in without {
                    let message = format!("{}: sample `{id}` has no `choices`", set.spec.path);
                    self.add(path, message, "`sample_choices` needs them in every sample");
                }
                return Some(Language::SampleChoices);
            }
            Setting::Choices(choices) => Constraint::Choices(choices.clone()),
            Setting::Regex(pattern) => {
                if let Err(error) = Regex::new(pattern) {
                    self.add(path, format!("the constraint: {error}"), "for example '[0-9]+'");
                    return None;
                }
                Constraint::Regex(pattern.clone())
            }
            Setting::Grammar(text) => {
                let grammar = self.text(path, text)?;
                if !grammar.lines().any(|line| line.trim_start().starts_with("start")) {
                    let help = "a grammar begins with a rule `start: …`";
                    self.add(path, "the grammar has no rule `start`".into(), help);
                    return None;
                }
                Constraint::Grammar(grammar)
            }
            Setting::JsonSchema(value) => {
                let text = match value.as_str() {
                    Some(text) => self.text(path, text)?,
                    None => value.to_string(),
                };
                if let Err(error) = score::schema_problem(&text) {
                    self.add(path, error, "give a JSON Schema, for example { type: object }");
                    return None;
                }
                Constraint::JsonSchema(serde_json::from_str(&text).ok()?)
            }
        };
        self.sayable(set, &constraint);
        Some(Language::Fixed(constraint))
    }

    /// A right answer that the language forbids can never be given.
    fn sayable(&mut self, set: &LoadedSet, constraint: &Constraint) {
        let says: Box<dyn Fn(&str) -> bool> = match constraint {
            Constraint::Choices(choices) => {
                Box::new(|answer| choices.iter().any(|choice| choice.trim() == answer.trim()))
            }
            Constraint::Regex(pattern) => match Regex::new(&format!("\\A(?:{pattern})\\z")) {
                Ok(whole) => Box::new(move |answer| whole.is_match(answer)),
                Err(_) => return,
            },
            Constraint::JsonSchema(_) | Constraint::Grammar(_) => return,
        };
        let unsayable = set.samples.iter().filter(|sample| !sample.accepted().any(&says)).count();
        if unsayable > 0 {
            let warning = format!(
                "set `{}`: the constraint forbids the right answer of {unsayable} of {} samples",
                set.spec.name,
                set.samples.len()
            );
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
    }
}
