// promptfoo: an evaluation of two prompts with assertions, through its openai provider.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { check, KEY, MODEL, runCalls, URL } from "./calls.mjs";

await runCalls({
  async can_evaluate_prompts() {
    const folder = mkdtempSync(join(tmpdir(), "promptfoo-"));
    const provider = { id: `openai:chat:${MODEL}`, config: { apiBaseUrl: URL, apiKey: KEY, max_tokens: 8 } };
    writeFileSync(join(folder, "config.json"), JSON.stringify({
      prompts: ["Say something about {{topic}}."],
      providers: [provider],
      tests: [{ vars: { topic: "foxes" } }, { vars: { topic: "dogs" } }].map((test) => ({
        ...test, assert: [{ type: "javascript", value: "output.length > 0" }],
      })),
    }));
    const environment = {
      ...process.env, PROMPTFOO_CONFIG_DIR: folder, PROMPTFOO_DISABLE_TELEMETRY: "1", PROMPTFOO_DISABLE_UPDATE: "1",
    };
    const words = ["eval", "-c", join(folder, "config.json"), "-o", join(folder, "out.json"), "--no-cache", "--no-table"];
    const program = join(process.env.MUSTER_PACKAGES, "node_modules/.bin/promptfoo");
    execFileSync(process.execPath, [program, ...words], { cwd: folder, env: environment, stdio: ["ignore", "pipe", "pipe"], timeout: 400_000 });
    const { results } = JSON.parse(readFileSync(join(folder, "out.json"), "utf8"));
    check(results.stats.successes === 2, JSON.stringify(results.stats));
  },
});
