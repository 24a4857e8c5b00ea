// Generates the stubs and compiles the package and its tests into dist/. What the repository has in one place,
// the contract and the service config, is taken from there; nothing of it is committed here.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import { delimiter, join } from "node:path";

const here = import.meta.dirname ?? new URL(".", import.meta.url).pathname;
const bin = join(here, "node_modules/.bin");
const env = { ...process.env, PATH: `${bin}${delimiter}${process.env.PATH}` };
const run = (program, ...words) => execFileSync(join(bin, program), words, { cwd: here, env, stdio: "inherit" });

rmSync(join(here, "dist"), { recursive: true, force: true });
mkdirSync(join(here, "src/gen"), { recursive: true });
run("buf", "generate", "../../proto", "--template", "buf.gen.yaml", "--output", ".");
copyFileSync(join(here, "../../deploy/service_config.json"), join(here, "src/gen/service_config.json"));
run("tsc");
