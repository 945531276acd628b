def run(inputs, context):
    text = inputs["unit"] * inputs["times"]
    context.log(text, field=text, nested={"list": [text]})
    raise ValueError(text)
