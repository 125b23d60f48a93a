// The stock OpenAI client for Node: streams, parsed forms, tools and responses.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { check, KEY, MODEL, runCalls, URL } from "./calls.mjs";

const client = new OpenAI({ baseURL: URL, apiKey: KEY, maxRetries: 0, timeout: 240_000 });
const Trip = z.object({ city: z.string().max(12), days: z.number().int().min(1).max(9) });
const messages = [{ role: "user", content: "How is the weather in Oslo?" }];

await runCalls({
  async can_stream_a_chat() {
    const stream = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 8, stream: true });
    let finish = null;
    for await (const chunk of stream) finish = chunk.choices[0]?.finish_reason ?? finish;
    check(finish !== null, "no finish");
  },
  async can_parse_a_form() {
    const answer = await client.chat.completions.parse({
      model: MODEL, messages, max_tokens: 200, response_format: zodResponseFormat(Trip, "trip"),
    });
    check(answer.choices[0].message.parsed.days >= 1, "no days");
  },
  async can_call_a_tool() {
    const tools = [{ type: "function", function: { name: "weather", strict: true, parameters: z.toJSONSchema(Trip) } }];
    const answer = await client.chat.completions.create({
      model: MODEL, messages, tools, tool_choice: "required", max_tokens: 200,
    });
    check("city" in JSON.parse(answer.choices[0].message.tool_calls[0].function.arguments), "no city");
  },
  async can_use_responses() {
    const answer = await client.responses.create({ model: MODEL, input: "Say something.", max_output_tokens: 16 });
    check(answer.output_text.length > 0, "no text");
  },
});
