// Vercel's AI SDK with @ai-sdk/openai-compatible: texts, streams, objects and tools.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import { check, KEY, MODEL, runCalls, URL } from "./calls.mjs";

const pool = createOpenAICompatible({ name: "muster", baseURL: URL, apiKey: KEY, supportsStructuredOutputs: true });
const model = pool.chatModel(MODEL);
const form = jsonSchema({
  type: "object",
  properties: { city: { type: "string", maxLength: 12 }, days: { type: "integer", minimum: 1, maximum: 9 } },
  required: ["city", "days"],
  additionalProperties: false,
});
const at = { model, maxRetries: 0 };

await runCalls({
  async can_generate_a_text() {
    const answer = await generateText({ ...at, prompt: "Say something.", maxOutputTokens: 8 });
    check(answer.usage.outputTokens <= 8, JSON.stringify(answer.usage));
  },
  async can_stream_a_text() {
    const { textStream, finishReason } = streamText({ ...at, prompt: "Say something.", maxOutputTokens: 8 });
    for await (const _ of textStream);
    check(["length", "stop"].includes(await finishReason), await finishReason);
  },
  async can_generate_an_object() {
    const { object } = await generateObject({ ...at, schema: form, prompt: "Plan a trip.", maxOutputTokens: 200 });
    check(object.days >= 1 && object.days <= 9, JSON.stringify(object));
  },
  async can_call_a_tool() {
    const weather = tool({ description: "The weather.", inputSchema: form, execute: async () => "rain" });
    const answer = await generateText({
      ...at, prompt: "Oslo?", tools: { weather }, toolChoice: "required", maxOutputTokens: 200,
      // Else a model that follows no instructions calls again and again, and of an answer that was cut nothing is run.
      providerOptions: { muster: { parallel_tool_calls: false } },
    });
    check(answer.toolResults[0].output === "rain", "no result");
  },
});
