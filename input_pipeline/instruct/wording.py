"""Instructions that a picture is shown with, where the teacher does not write the question: 16 for a description in
detail and 11 for a brief one, as many as LLaVA has (paper, tables 12 and 11), in words of our own.
"""

from __future__ import annotations

DETAIL = (
    "Give a thorough description of this picture.",
    "What can be seen here? Go into detail.",
    "Tell me everything that this photo shows.",
    "Please describe the scene in full.",
    "Walk me through this image, part by part.",
    "I cannot see this picture. Could you describe it to me at length?",
    "Write a detailed account of what is shown.",
    "Describe what is in the photo, and where each thing is.",
    "Look closely at this picture and report what you find.",
    "What is going on in this image? Leave nothing out.",
    "Paint a complete picture of this scene in words.",
    "Explain in several sentences what this photograph contains.",
    "How would you describe this image to somebody who needs to know all of it?",
    "Give me a rich description of the things in this picture and how they relate.",
    "Study the image and write down what you notice.",
    "Please give a long and exact description of the photo.",
)

BRIEF = (
    "Describe the picture in one sentence.",
    "What does this image show, in short?",
    "Give a brief caption for this photo.",
    "Sum up what you see here.",
    "In a few words, what is this?",
    "Write one short sentence about this picture.",
    "What is the main thing in this image?",
    "Say briefly what is shown.",
    "Provide a concise description of the photo.",
    "Tell me in short what this picture is about.",
    "Give a quick summary of the image.",
)
