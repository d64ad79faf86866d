import json

import numpy
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration
from transformers.video_utils import load_video

folder = "runs/mini/cdpo/checkpoints/latest"
clip = "clip.mp4"
question = "What happens first?\nA. The door opens\nB. The light goes out"

processor = AutoProcessor.from_pretrained(folder)
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype="auto", device_map="auto")
trained = json.load(open(f"{folder}/videothinker.json"))
video = trained["settings"]["video"]


def frames(metadata, **_):  # as many as in training, evenly from the first to the last
    total = metadata.total_num_frames
    count = min(max(total / metadata.fps * video["fps"], video["min_frames"]), video["max_frames"], total)
    return numpy.linspace(0, total - 1, int(count // 2 * 2)).round().astype(int)


pixels, metadata = load_video(clip, sample_indices_fn=frames)
text = trained["prompt"].replace("{question}", question)
chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]
prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
inputs = processor(text=[prompt], videos=[pixels], video_metadata=[metadata], return_tensors="pt").to(model.device)
ids = model.generate(**inputs, max_new_tokens=trained["settings"]["sampling"].get("max_new_tokens", 768), do_sample=False)
print(processor.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)[0])
