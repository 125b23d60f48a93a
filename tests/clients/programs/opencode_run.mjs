// opencode: one question put to the coding agent, which streams with a tool on offer.

import { execFileSync } from "node:child_process";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { check, KEY, MODEL, runCalls, URL } from "./calls.mjs";

await runCalls({
  async can_ask_the_agent() {
    const folder = mkdtempSync(join(tmpdir(), "opencode-"));
    writeFileSync(join(folder, "opencode.json"), JSON.stringify({
      provider: {
        muster: {
          npm: "@ai-sdk/openai-compatible", name: "Muster", options: { baseURL: URL, apiKey: KEY },
          models: { [MODEL]: { name: MODEL, limit: { context: 1024, output: 16 } } },
        },
      },
      // The usual instructions and a dozen tools are longer than what the model's context holds.
      agent: { brief: { mode: "primary", prompt: "Be brief.", tools: { "*": false, read: true } } },
      autoupdate: false,
      share: "disabled",
    }));
    const program = join(process.env.MUSTER_PACKAGES, "node_modules/.bin/opencode");
    const said = execFileSync(program, ["run", "-m", `muster/${MODEL}`, "--agent", "brief", "--title", "test", "Say something."], {
      cwd: folder, env: { ...process.env, HOME: folder, PWD: folder }, timeout: 400_000, stdio: ["ignore", "pipe", "pipe"],
    });
    check(said.length > 0, "it said nothing");
  },
});
